"""Topics of a test's own on the real broker, and a writer for them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from topics.codec import encode
from topics.ensure import ensure
from topics.events import Event
from topics.specs import TopicSpec

Make = Callable[[TopicSpec, int], Awaitable[TopicSpec]]
Write = Callable[..., Awaitable[None]]


@pytest.fixture
def make_topic(kafka_bootstrap: str) -> Make:
    """Make a topic like a spec, with a name of its own and so many partitions."""

    async def make(spec: TopicSpec, partitions: int) -> TopicSpec:
        mine = replace(spec, name=f"{spec.name}-{uuid.uuid4().hex}", partitions=partitions)
        await ensure(kafka_bootstrap, [mine])
        return mine

    return make


@pytest_asyncio.fixture
async def write(kafka_bootstrap: str) -> AsyncIterator[Write]:
    """Write values to one partition of a topic, one batch each, so that no two arrive at one instant's offset."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, enable_idempotence=True)
    await producer.start()

    async def write_all(topic: str, partition: int | None, *values: Event | bytes | None, key: bytes | None = None) -> None:
        for value in values:
            encoded = encode(value) if isinstance(value, Event) else value
            await producer.send_and_wait(topic, encoded, key=key, partition=partition)

    yield write_all
    await producer.stop()
