"""The throttle as part of a detector process, on real Redis and Kafka: outcomes in, a factor and its audit out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from detector.factor_store import FactorStore
from lua.keys import FACTORS
from tests.detector_under_test import DetectorProcess, now_ms, poll, read_topic
from topics.ensure import ensure
from topics.events import VerdictEvent
from topics.partition import choose_partition
from topics.sketch import find_bucket
from topics.wire import HeartbeatEvent, LoadEvent, OutcomeEvent

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, socket_timeout=30) as client:
        yield client


class Reporter:
    """Writes to ``outcomes`` what an enforcer does of one action, each second, until it is stopped."""

    def __init__(self, producer: AIOKafkaProducer, partitions: int, action: str) -> None:
        self._producer = producer
        self._partition = choose_partition(action.encode(), partitions)
        self._action = action
        self._source = f"test/0/{uuid.uuid4().hex}"
        self._n = 0
        self.latency_ms = 20.0

    async def run(self) -> None:
        while True:
            at_ms = now_ms() // 1000 * 1000
            bucket = find_bucket(self.latency_ms * 1000)
            await self._send(OutcomeEvent(self._source, self._n + 1, self._action, at_ms, 100, 0, 0, {bucket: 100}))
            await self._send(LoadEvent(self._source, self._n + 2, self._action, at_ms, 100, 10, 1_000_000))
            self._n += 2
            await asyncio.sleep(1)
            await self._send(HeartbeatEvent(self._source, self._n, now_ms()))

    async def _send(self, record: OutcomeEvent | LoadEvent | HeartbeatEvent) -> None:
        await self._producer.send_and_wait("outcomes", msgspec.json.encode(record), partition=self._partition)


@pytest_asyncio.fixture(loop_scope="module")
async def reporter(detector: DetectorProcess) -> AsyncIterator[Reporter]:
    partitions = (await ensure(detector.kafka)).partitions["outcomes"]
    producer = AIOKafkaProducer(bootstrap_servers=detector.kafka, enable_idempotence=True)
    await producer.start()
    reporter = Reporter(producer, partitions, f"login-{uuid.uuid4().hex[:8]}")
    task = asyncio.create_task(reporter.run())
    yield reporter
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await producer.stop()


async def test_overload_lowers_the_limits_and_calm_raises_them_again(
    detector: DetectorProcess, redis: Redis, reporter: Reporter
) -> None:
    store = FactorStore(redis, "test")
    action = reporter._action

    async def is_lowered() -> bool:
        return (await store.read(action))[0] < 1000

    reporter.latency_ms = 5000
    await poll(is_lowered, "the factor")
    lowest, _ = await store.read(action)
    assert lowest <= 100, "at most the share of the limits that is in use"
    reporter.latency_ms = 20

    async def is_raised() -> bool:
        return (await store.read(action))[0] > lowest

    await poll(is_raised, "the factor raised")

    async def look() -> list[VerdictEvent]:
        subject = f"action={action}".encode()
        values = [value for key, value in await read_topic(detector.kafka, "verdicts") if key == subject]
        return [VerdictEvent.model_validate_json(value) for value in values]

    verdicts = await poll(look, "the verdicts")
    assert {verdict.penalty for verdict in verdicts} == {"throttle"}
    assert verdicts[0].factor <= 100
    assert "p90 50" in verdicts[0].reason


async def test_factor_ends_when_its_detector_is_gone(detector: DetectorProcess, redis: Redis, reporter: Reporter) -> None:
    action = reporter._action
    reporter.latency_ms = 5000

    async def is_lowered() -> bool:
        return bool(await redis.hexists(FACTORS, action))

    await poll(is_lowered, "the factor")
    other = await FactorStore(redis, "another").put(action, 900, 1000)
    assert not other.is_ours, "two detectors by mistake do not write in turn"
    detector.kill()

    async def has_ended() -> bool:
        return not await redis.exists(FACTORS)

    await poll(has_ended, "the end of the factor")
