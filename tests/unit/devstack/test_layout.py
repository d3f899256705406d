from __future__ import annotations

import pytest
from pydantic import ValidationError

from devstack.errors import DevstackError
from devstack.kafka_broker import Node
from devstack.layout import Addresses, StackSpec

FULL = Addresses(
    redis_port=1, replica_port=2, cluster_ports={3: 4, 5: 6}, nodes=(Node(1, 7, 8), Node(2, 9, 10)), envoy_port=11,
    envoy_admin_port=12, sentinel_ports=(13, 14),
)  # fmt: skip


def test_a_stack_tells_the_address_of_everything_that_it_has() -> None:
    assert FULL.named() == {
        "redis_url": "redis://127.0.0.1:1/0",
        "replica_url": "redis://127.0.0.1:2/0",
        "sentinel_url": "redis+sentinel://127.0.0.1:13,127.0.0.1:14/ratchet/0",
        "cluster_url": "redis+cluster://127.0.0.1:3,127.0.0.1:5",
        "kafka_bootstrap": "127.0.0.1:7,127.0.0.1:9",
        "envoy_address": "127.0.0.1:11",
        "envoy_admin": "http://127.0.0.1:12",
    }
    assert list(FULL.ports()) == [
        "redis", "redis-replica", "redis-sentinel-1", "redis-sentinel-2", "redis-cluster-1", "redis-cluster-2", "kafka",
        "kafka-2", "envoy",
    ]  # fmt: skip
    assert FULL.checks().keys() == FULL.ports().keys()


def test_a_part_that_is_not_there_is_named() -> None:
    assert Addresses().named() == {}
    with pytest.raises(DevstackError, match="no Kafka"):
        _ = Addresses().kafka_bootstrap
    with pytest.raises(DevstackError, match="no Redis Cluster"):
        _ = Addresses().cluster_url


def test_ports_that_had_to_move_are_told() -> None:
    assert Addresses(redis_port=6379, nodes=(Node(1, 20001, 20002),)).moved() == {"kafka": 9092}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parts": ["kafka"], "replica": True}, "a replica needs the part redis"),
        ({"sentinels": 3}, "sentinels need a replica"),
        ({"cluster_replicas": True}, "replicas of a cluster need the cluster"),
        ({"parts": []}, "no part is asked for"),
        ({"parts": ["zookeeper"]}, "'redis', 'kafka' or 'envoy'"),
        ({"brokers": 0}, "greater than or equal to 1"),
        ({"broker": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_spec_says_what_is_allowed(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StackSpec.model_validate(wrong)


def test_a_cluster_may_stand_alone() -> None:
    assert StackSpec(parts=frozenset(), cluster=True).cluster
