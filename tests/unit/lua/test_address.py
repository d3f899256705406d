"""Redis URLs."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import UnixDomainSocketConnection

from lua.address import Address, parse_address


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://h:1/2", {"host": "h", "port": 1, "db": 2}),
        ("redis://h", {"host": "h"}),
        ("redis://ann:p%40ss@h:1/0", {"host": "h", "port": 1, "db": 0, "username": "ann", "password": "p@ss"}),
        ("redis://:secret@[::1]:1", {"host": "::1", "port": 1, "password": "secret"}),
        ("unix:///run/redis.sock?db=3", {"path": "/run/redis.sock", "db": 3, "connection_class": UnixDomainSocketConnection}),
    ],
)
def test_url_without_sentinels_is_as_redis_py_reads_it(url: str, options: dict[str, object]) -> None:
    assert parse_address(url) == Address(options)
    assert not parse_address(url).is_tls


def test_sentinels_have_names_of_their_own() -> None:
    found = parse_address("redis+sentinel://ann:secret@a,b:1,[::1]:2/mymaster/3?sentinel_password=other&socket_keepalive=yes")
    assert found.sentinels == (("a", 26379), ("b", 1), ("::1", 2))
    assert found.service == "mymaster"
    assert found.options == {"username": "ann", "password": "secret", "db": 3, "socket_keepalive": True}
    assert found.sentinel_options == {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "ssl": False, "password": "other"}


def test_sentinels_are_asked_over_tls_where_the_master_is() -> None:
    found = parse_address("rediss+sentinel://a/mymaster?ssl_ca_certs=/ca.pem&sentinel_username=eve")
    assert found.is_tls
    assert found.options["ssl_ca_certs"] == "/ca.pem"
    assert found.sentinel_options.items() >= {("ssl", True), ("ssl_ca_certs", "/ca.pem"), ("username", "eve")}


def test_nodes_of_a_cluster_are_reached_alike() -> None:
    found = parse_address("rediss+cluster://ann:secret@a,b:1?ssl_ca_certs=/ca.pem")
    assert found.cluster == (
        "rediss://ann:secret@a:6379?ssl_ca_certs=/ca.pem",
        "rediss://ann:secret@b:1?ssl_ca_certs=/ca.pem",
    )
    assert found.is_tls
    assert found.options.items() >= {("username", "ann"), ("password", "secret"), ("ssl_ca_certs", "/ca.pem")}
    assert "secret" not in repr(found)


async def test_client_of_a_cluster_knows_every_node_that_is_named() -> None:
    client = parse_address("redis+cluster://:secret@a,b:1").open_client(socket_timeout=3.0)
    assert isinstance(client, RedisCluster)
    assert list(client.nodes_manager.startup_nodes) == ["a:6379", "b:1"]
    assert client.connection_kwargs["password"] == "secret"


async def test_listener_of_a_cluster_subscribes_at_one_of_the_nodes_that_are_named() -> None:
    address = parse_address("redis+cluster://a,b:1")
    named = set()
    for _ in range(100):
        client = address.open_listener()
        named.add(client.connection_pool.connection_kwargs["host"])
        await client.aclose()
    assert named == {"a", "b"}


def test_certificates_are_checked_unless_the_url_says_otherwise() -> None:
    assert parse_address("redis://h").load_tls() is None
    strict = parse_address("rediss://h").load_tls()
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    lax = parse_address("rediss://h?ssl_cert_reqs=none").load_tls()
    assert lax is not None
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)


def test_certificate_that_is_not_there_is_told_when_it_is_needed(tmp_path: Path) -> None:
    address = parse_address(f"rediss://h?ssl_ca_certs={tmp_path}/none.pem")
    with pytest.raises(OSError, match=r"the certificates that the Redis URL names cannot be used: .*No such file"):
        address.load_tls()


SCHEMES = "a Redis URL begins with redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
DATABASE = "a Redis URL ends in the number of a database, as in /0; a / in a password is written %2F"
SENTINEL = "a redis+sentinel:// URL ends in the master's name and a database, as in /mymaster/0"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", SCHEMES),
        ("127.0.0.1:6379", SCHEMES),
        ("http://h", SCHEMES),
        ("redis://h/first", DATABASE),
        ("redis://:top/secret@h", DATABASE),
        ("redis://h?db=x", "a Redis URL has a bad part: Invalid value for 'db' in connection URL."),
        ("redis://h:70000", "a Redis URL has a bad part: Port out of range 0-65535"),
        ("redis://[", "a Redis URL has a bad part: Invalid IPv6 URL"),
        ("redis://h?color=red", "a Redis URL has no parameter 'color'; allowed are redis-py's, such as ssl_ca_certs"),
        ("rediss://h?ssl_cert_reqs=no", "a Redis URL has a bad part: Invalid SSL Certificate Requirements Flag: no"),
        ("redis+cluster://a:1,:2", "':2' in a Redis Cluster's URL is no node; write host:port,host:port"),
        ("redis+cluster://a?color=red", "a Redis URL has no parameter 'color'; allowed are redis-py's, such as ssl_ca_certs"),
        ("redis+sentinel://[/mymaster", "a Redis URL has a bad part: Invalid IPv6 URL"),
        ("redis+sentinel://h:1", SENTINEL),
        ("redis+sentinel://h:1/", SENTINEL),
        ("redis+sentinel://h:1/a/0/b", SENTINEL),
        ("redis+sentinel://h/mymaster/first", DATABASE),
        ("redis+sentinel:///mymaster", "'' in a Redis URL is no sentinel; write host:port,host:port"),
        ("redis+sentinel://a:1,b:x/mymaster", "'b:x' in a Redis URL is no sentinel; write host:port,host:port"),
    ],
)
def test_bad_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_address(url)
    assert str(refused.value) == problem


def test_password_is_never_shown() -> None:
    assert "secret" not in repr(parse_address("redis+sentinel://ann:secret@h/mymaster?sentinel_password=secret"))
