from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer

from devstack.ports import LOOPBACK, PortChooser
from topics.ensure import ensure
from topics.errors import KafkaUnavailable
from topics.partition import choose_partition
from topics.specs import DECISIONS, SPECS, TopicSpec


def unique(*specs: TopicSpec) -> list[TopicSpec]:
    tail = uuid.uuid4().hex
    return [replace(spec, name=f"{spec.name}-{tail}") for spec in specs]


async def test_all_topics_are_made_as_their_specs_say_and_stay_so(kafka_bootstrap: str) -> None:
    specs = unique(*SPECS)
    first = await ensure(kafka_bootstrap, specs)
    assert set(first.created) == {spec.name for spec in specs}
    second = await ensure(kafka_bootstrap, specs)
    assert second.created == ()
    assert second.differences == ()
    assert second.partitions == {spec.name: spec.partitions for spec in specs}


async def test_many_may_make_the_same_topics_at_once(kafka_bootstrap: str) -> None:
    specs = unique(*SPECS)
    reports = await asyncio.gather(*(ensure(kafka_bootstrap, specs) for _ in range(4)))
    assert sorted(name for report in reports for name in report.created) == sorted(spec.name for spec in specs)
    assert all(report.is_sound and not report.differences for report in reports)


async def test_what_exists_is_reported_and_never_changed(kafka_bootstrap: str) -> None:
    (spec,) = unique(DECISIONS)
    await ensure(kafka_bootstrap, [replace(spec, partitions=2, retention_ms=1_000_000)])
    for _ in range(2):
        report = await ensure(kafka_bootstrap, [spec])
        assert not report.is_sound
        assert report.partitions == {spec.name: 2}
        found = {difference.what: (difference.found, difference.is_harmful) for difference in report.differences}
        assert found == {"partitions": ("2", True), "retention.ms": ("1000000", True), "segment.ms": ("125000", False)}


async def test_a_topic_that_the_broker_refuses_is_reported_and_the_others_are_made(kafka_bootstrap: str) -> None:
    good, bad = unique(DECISIONS, replace(DECISIONS, name="no such name!"))
    report = await ensure(kafka_bootstrap, [bad, good])
    assert report.created == (good.name,)
    assert [(each.topic, each.is_harmful) for each in report.differences] == [(bad.name, True)]


async def test_a_broker_that_is_away_is_waited_for_and_then_named() -> None:
    told: list[str] = []
    address = f"{LOOPBACK}:{PortChooser().choose()}"
    with pytest.raises(KafkaUnavailable, match=address):
        await ensure(address, wait_s=0.6, tell=told.append)
    assert told == [f"Kafka does not answer at {address} yet; trying for 0.6 s"]


async def test_a_broker_that_comes_up_meanwhile_is_used(kafka_bootstrap: str) -> None:
    host, _, broker_port = kafka_bootstrap.partition(",")[0].rpartition(":")
    port = PortChooser().choose()
    told: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(ensure(f"{LOOPBACK}:{port}", unique(DECISIONS), wait_s=30, tell=told.put_nowait))

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(broker_port))

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with asyncio.timeout(60):
        assert "trying for 30 s" in await told.get()
        async with await asyncio.start_server(forward, LOOPBACK, port):
            assert (await waiting).is_sound


async def test_the_partition_rule_is_the_one_of_the_producer(
    kafka_bootstrap: str, make_topic: Callable[[TopicSpec, int], Awaitable[TopicSpec]]
) -> None:
    spec = await make_topic(DECISIONS, 5)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()
    try:
        for number in range(40):
            key = f"user=user-{number}".encode()
            sent = await producer.send_and_wait(spec.name, b"{}", key=key)
            assert sent.partition == choose_partition(key, 5)
    finally:
        await producer.stop()
