"""How both processes reach Redis: one URL, read in one way.

``redis://``, ``rediss://`` (TLS) and ``unix://`` are redis-py's own, query parameters included. ``redis+sentinel://`` (TLS:
``rediss+sentinel://``) asks sentinels for the master, written as in the library ``limits``:
``redis+sentinel://user:password@host:26379,host:26379/service/db``. Name and password are those of the master and its
replicas; the sentinels' own are the parameters ``sentinel_username`` and ``sentinel_password``. ``redis+cluster://`` (TLS:
``rediss+cluster://``) is a Redis Cluster (see ``cluster_address``).
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool, SSLConnection, parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import ClusterError, RedisClusterException, RedisError

from lua.cluster_address import is_cluster, list_cluster_nodes

DEFAULT_SENTINEL_PORT = 26379
ANSWER_WITHIN_S = 0.5
"""A sentinel that is silent for so long is passed over for the next one."""

_SCHEMES = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
_SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is, and how to log in there.

    Attributes:
        options: redis-py's arguments of one connection; without host and port where sentinels name them.
        sentinels: Host and port of each sentinel; empty: Redis is where ``options`` say.
        service: The master's name among the sentinels.
        sentinel_options: redis-py's arguments of a connection to a sentinel.
        cluster: The URL of each node of a Redis Cluster that is named, as of a server of its own; else empty.
    """

    options: Mapping[str, Any] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cluster: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.options.get("connection_class") is SSLConnection

    def load_tls(self) -> ssl.SSLContext | None:
        """Read the certificates that the URL names, anew with each call: they may have been renewed. None without TLS.

        Raises:
            OSError: A file cannot be read or holds something else.
        """
        if not self.is_tls:
            return None
        try:
            connection = _build_connection(self.options)
            assert isinstance(connection, SSLConnection)  # noqa: S101 the options say so
            return connection.ssl_context.get()
        except OSError as error:
            raise OSError(f"the certificates that the Redis URL names cannot be used: {error}") from error

    def watch_over(self) -> Sentinel:
        """Give redis-py's client of the sentinels. Close it.

        Its answers come from the first sentinel that knows the master; each is asked for at most half a second.
        """
        return Sentinel(self.sentinels, sentinel_kwargs=dict(self.sentinel_options))  # type: ignore[no-untyped-call]

    def open_client(self, **options: Any) -> Redis:
        """Give redis-py's client; it connects at its first command, with sentinels to whom they name at that time.

        A cluster's has the same methods; the keys of one command have to share a slot.

        Args:
            options: redis-py's, on top of those in the URL.
        """
        own = {**self.options, **options}
        if self.cluster:
            return self._open_cluster(own)
        if not self.sentinels:
            return Redis.from_pool(ConnectionPool(**own))
        own.pop("connection_class", None)
        client: Redis = self.watch_over().master_for(self.service, connection_pool_class=_SentinelPool, ssl=self.is_tls, **own)
        return client

    def open_listener(self) -> Redis:
        """Give redis-py's client to subscribe with. Of a cluster, where every node hears what is published, any node's.

        Which one is left to chance: whoever loses it opens another, and is not bound to a node that stays away.
        """
        return Redis.from_url(secrets.choice(self.cluster)) if self.cluster else self.open_client()

    def _open_cluster(self, options: dict[str, Any]) -> Redis:
        own = {name: value for name, value in options.items() if name not in {"host", "port", "db", "connection_class"}}
        named = [parse_url(url) for url in self.cluster]
        nodes = [ClusterNode(one["host"], one["port"]) for one in named]
        client = _Cluster(startup_nodes=nodes, require_full_coverage=False, ssl=self.is_tls, **own)
        return cast("Redis", client)  # the two have no type in common that tells their commands


class _Cluster(RedisCluster):
    """Raises RedisError where redis-py's own raises what is none: nobody answers, or nobody has the slot."""

    async def initialize(self, *args: Any, **options: Any) -> Self:
        try:
            await super().initialize(*args, **options)
        except RedisClusterException as error:
            raise ClusterError(str(error)) from error
        return self

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)
        except RedisClusterException as error:
            raise ClusterError(str(error)) from error


class _SentinelPool(SentinelConnectionPool):
    """Closes its sentinels' clients too; nobody else has them."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def parse_address(url: str) -> Address:
    """Read a Redis URL. Nothing is opened and no file is read.

    Raises:
        ValueError: It is none. The message says what is allowed and repeats no password.
    """
    scheme, _, _ = url.partition("://")
    if scheme in {"redis+sentinel", "rediss+sentinel"}:
        return _parse_sentinel(url)
    if is_cluster(url):
        nodes = list_cluster_nodes(url)
        return Address(_parse_options(nodes[0]), cluster=nodes)
    return Address(_parse_options(url))


def open_client(url: str, **options: Any) -> Redis:
    """Give redis-py's client of the Redis that a URL names; see ``Address.open_client``.

    Raises:
        ValueError: It is no Redis URL.
    """
    return parse_address(url).open_client(**options)


def open_listener(url: str) -> Redis:
    """Give redis-py's client to subscribe with; see ``Address.open_listener``.

    Raises:
        ValueError: It is no Redis URL.
    """
    return parse_address(url).open_listener()


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ValueError(f"a Redis URL has a bad part: {error}") from error


def _parse_options(url: str) -> dict[str, Any]:
    parts = _split(url)
    path = parts.path.strip("/")
    if parts.scheme in {"redis", "rediss"} and path and not path.isdecimal():
        raise ValueError("a Redis URL ends in the number of a database, as in /0; a / in a password is written %2F")
    try:
        options: dict[str, Any] = dict(parse_url(url))
        # What redis-py does not know it would refuse at the first command, long after the start.
        _build_connection(options)
    except TypeError as error:
        unknown = str(error).rpartition(" ")[2]
        raise ValueError(f"a Redis URL has no parameter {unknown}; allowed are redis-py's, such as ssl_ca_certs") from error
    except (RedisError, ValueError) as error:
        if "must specify one of the following schemes" in str(error):
            raise ValueError(f"a Redis URL begins with {_SCHEMES}") from error
        raise ValueError(f"a Redis URL has a bad part: {error}") from error
    return options


def _build_connection(options: Mapping[str, Any]) -> AbstractConnection:
    connection: AbstractConnection = ConnectionPool(**options).make_connection()  # type: ignore[no-untyped-call]
    return connection


def _parse_sentinel(url: str) -> Address:
    parts = _split(url)
    login, _, hosts = parts.netloc.rpartition("@")
    steps = parts.path.strip("/").split("/")
    if not steps[0] or len(steps) > 2:
        raise ValueError(f"a {parts.scheme}:// URL ends in the master's name and a database, as in /mymaster/0")
    query = dict(parse_qsl(parts.query))
    sentinel_login = {option: query.pop(name) for name, option in _SENTINEL_OPTIONS.items() if name in query}
    scheme = parts.scheme.removesuffix("+sentinel")
    database = steps[1] if len(steps) == 2 else "0"
    options = _parse_options(f"{scheme}://{login}@-/{database}?{urlencode(query)}")
    del options["host"]
    is_tls = scheme == "rediss"
    return Address(
        options,
        tuple(_parse_sentinel_host(host) for host in hosts.split(",")),
        steps[0],
        {
            "socket_timeout": ANSWER_WITHIN_S,
            "socket_connect_timeout": ANSWER_WITHIN_S,
            "ssl": is_tls,
            **{name: value for name, value in options.items() if name.startswith("ssl_")},
            **sentinel_login,
        },
    )


def _parse_sentinel_host(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise ValueError(f"{text!r} in a Redis URL is no sentinel; write host:port,host:port")
    return host, port or DEFAULT_SENTINEL_PORT
