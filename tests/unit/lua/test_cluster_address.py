"""URLs of a Redis Cluster."""

from __future__ import annotations

import pytest

from lua.cluster_address import is_cluster, list_cluster_nodes, name_cluster_node


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("redis+cluster://a", ("redis://a:6379",)),
        ("redis+cluster://a:1,b,[::1]:3/0", ("redis://a:1", "redis://b:6379", "redis://[::1]:3")),
        ("redis+cluster://ann:p%40ss@a,b:2", ("redis://ann:p%40ss@a:6379", "redis://ann:p%40ss@b:2")),
        ("rediss+cluster://:pw@a?ssl_ca_certs=/ca.pem", ("rediss://:pw@a:6379?ssl_ca_certs=/ca.pem",)),
    ],
)
def test_every_node_that_is_named_has_a_url_of_its_own(url: str, nodes: tuple[str, ...]) -> None:
    assert is_cluster(url)
    assert list_cluster_nodes(url) == nodes


def test_other_nodes_are_reached_in_the_same_way() -> None:
    url = "rediss://ann:pw@a:1?ssl_ca_certs=/ca.pem"
    assert name_cluster_node(url, "10.0.0.7", 6380) == "rediss://ann:pw@10.0.0.7:6380?ssl_ca_certs=/ca.pem"
    assert name_cluster_node(url, "::1", 2) == "rediss://ann:pw@[::1]:2?ssl_ca_certs=/ca.pem"
    assert name_cluster_node(url, "", 2) == "rediss://ann:pw@a:2?ssl_ca_certs=/ca.pem", "a node that does not know its own host"
    assert name_cluster_node("redis://[::1]:1", "", 2) == "redis://[::1]:2"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://a:1", "a Redis Cluster's URL begins with redis+cluster:// or rediss+cluster://"),
        ("redis+cluster://", "'' in a Redis Cluster's URL is no node; write host:port,host:port"),
        ("redis+cluster://a:1,:2", "':2' in a Redis Cluster's URL is no node; write host:port,host:port"),
        ("redis+cluster://pw@a:x", "'a:x' in a Redis Cluster's URL is no node; write host:port,host:port"),
        ("redis+cluster://a:70000", "'a:70000' in a Redis Cluster's URL is no node; write host:port,host:port"),
        (
            "redis+cluster://a:1/2",
            "a Redis Cluster's URL ends in no database: a cluster has one, and a / in a password is written %2F",
        ),
    ],
)
def test_bad_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        list_cluster_nodes(url)
    assert str(refused.value) == problem


def test_a_server_of_its_own_is_no_cluster() -> None:
    assert not any(is_cluster(url) for url in ("", "redis://a", "rediss://a", "unix:///a", "redis+sentinel://a/m"))
