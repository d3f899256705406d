"""Stacks of real servers: reachable where they say, killable, restartable, and gone afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis, RedisCluster

from devstack import ports
from devstack.errors import DevstackError
from devstack.process import passes
from devstack.stack import Stack, StackSpec, start

DEADLINE_S = 20.0


async def make_topic(bootstrap: str, name: str, *, replicas: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=replicas)])

        async def is_known() -> bool:
            return name in await admin.list_topics()

        await until(is_known, f"{name} was not made")  # each broker learns of it in its own time
    finally:
        await admin.close()


async def send(bootstrap: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def first_value(bootstrap: str, topic: str) -> bytes:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        value: bytes = (await asyncio.wait_for(consumer.getone(), DEADLINE_S)).value
    finally:
        await consumer.stop()
    return value


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def test_the_fixtures_name_servers_that_work(redis_client: Redis, kafka_bootstrap: str) -> None:
    assert await redis_client.set("key", "value")
    await make_topic(kafka_bootstrap, "devstack-test")


async def test_a_killed_kafka_keeps_its_records_and_its_port() -> None:
    async with Stack(StackSpec(parts=frozenset({"kafka"}))) as stack:
        before = stack.kafka_bootstrap
        await make_topic(before, "kept")
        await send(before, "kept", b"value")
        await stack.kill("kafka")
        assert not await passes(stack.addresses.checks()["kafka"])
        await stack.restart("kafka")
        assert stack.kafka_bootstrap == before
        assert await first_value(before, "kept") == b"value"


async def test_three_brokers_hold_every_record_and_outlive_one_of_them() -> None:
    async with Stack(StackSpec(parts=frozenset({"kafka"}), brokers=3)) as stack:
        assert stack.kafka_bootstrap.count(",") == 2
        await make_topic(stack.kafka_bootstrap, "replicated", replicas=3)
        await stack.kill("kafka-2")
        await send(stack.kafka_bootstrap, "replicated", b"value")
        await stack.restart("kafka-2")
        assert await first_value(stack.kafka_bootstrap, "replicated") == b"value"


async def test_a_replica_follows_and_a_cluster_shares_the_slots() -> None:
    async with Stack(StackSpec(parts=frozenset({"redis"}), replica=True, cluster=True)) as stack:
        async with Redis.from_url(stack.redis_url) as primary, Redis.from_url(stack.addresses.replica_url) as replica:
            await primary.set("key", "value")

            async def has_followed() -> bool:
                return bool(await replica.get("key") == b"value")

            await until(has_followed, "the replica did not follow")
        first, *_ = stack.addresses.cluster_ports
        async with RedisCluster(ports.LOOPBACK, first) as cluster:
            for number in range(30):
                await cluster.set(f"key-{number}", number)
            sizes = [await cluster.dbsize(target_nodes=node) for node in cluster.get_primaries()]
        assert len(sizes) == 3
        assert all(sizes)
        assert sum(sizes) == 30


def test_a_stack_can_be_paused_killed_and_restarted_without_async() -> None:
    with start(StackSpec(parts=frozenset({"redis"}))) as stack:
        port = stack.addresses.redis_port
        assert port is not None
        answers = stack.addresses.checks()["redis"]
        stack.pause("redis")
        assert not asyncio.run(passes(answers))
        stack.resume("redis")
        assert asyncio.run(passes(answers))
        stack.kill("redis")
        assert [state.status for state in stack.states()] == ["exited"]
        stack.restart("redis")
        assert asyncio.run(passes(answers))
        (state,) = stack.states()
        log = state.log
        assert log.exists()
    assert not log.parent.parent.exists()
    assert ports.is_free(port)


async def test_a_stack_tells_of_a_service_that_it_lacks() -> None:
    async with Stack(StackSpec(parts=frozenset({"redis"}))) as stack:
        with pytest.raises(DevstackError, match="no Kafka"):
            _ = stack.kafka_bootstrap
        with pytest.raises(DevstackError, match="There are: redis"):
            await stack.kill("kafka")


async def test_a_port_that_is_taken_meanwhile_fails_with_the_servers_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Stack(StackSpec(parts=frozenset({"redis"}))) as first:
        monkeypatch.setattr("devstack.ports.PortChooser.choose", lambda *_: first.addresses.redis_port)
        with pytest.raises(DevstackError, match=r"redis ended with exit code 1(.|\n)*in use"):
            async with Stack(StackSpec(parts=frozenset({"redis"}))):
                pass
