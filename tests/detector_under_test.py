"""A detector process, and what stands around it: the writer of ``denials`` that enforcers are, and readers of what is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis

from lua.keys import name_abuse
from topics.ensure import ensure
from topics.events import AbuseState, ClosedEvent, Event, Fold, FoldsEvent, HeartbeatEvent
from topics.partition import choose_partition

T = TypeVar("T")
WITHIN_S = 20.0


async def poll(look: Callable[[], Awaitable[T | None]], what: str, *, within_s: float = WITHIN_S) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + within_s
    while True:
        seen = await look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not seen within {within_s:g} s: {what}")
        await asyncio.sleep(0.01)


@dataclass
class DetectorProcess:
    """``python -m detector run``, restarted at will."""

    kafka: str
    redis: str
    log_file: Path
    rules: Path = Path("config/rules.yaml")
    instance: str = ""
    process: subprocess.Popen[bytes] | None = None
    starts_at: int = 0
    """Where the present run's log begins, in bytes."""

    def start(self) -> None:
        self.starts_at = self.log_file.stat().st_size if self.log_file.exists() else 0
        command = [sys.executable, "-m", "detector", "run", "--rules", str(self.rules), "--metrics-port", "0"]
        options = ["--kafka", self.kafka, "--redis", self.redis, "--instance", self.instance]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen([*command, *options], stdout=log, stderr=log)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines() if line.startswith("{")]

    async def wait_ready(self) -> None:
        async def look() -> bool:
            assert self.process
            assert self.process.poll() is None, self.log_file.read_text()[-4000:]
            return b"detector_ready" in self.log_file.read_bytes()[self.starts_at :]

        await poll(look, "detector_ready", within_s=60)

    @property
    def metrics_url(self) -> str:
        return str([line["metrics"] for line in self.lines() if line["event"] == "listening"][-1])

    async def end(self, number: signal.Signals) -> int:
        assert self.process
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, 30)

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Enforcer:
    """Writes records as one enforcer's source does: numbered per partition."""

    producer: AIOKafkaProducer
    partitions: int
    source: str = field(default_factory=lambda: f"test/0/{os.urandom(4).hex()}")
    numbers: dict[int, int] = field(default_factory=dict)
    written: list[tuple[int, bytes]] = field(default_factory=list)

    def place(self, subject: str) -> int:
        return choose_partition(subject.encode(), self.partitions)

    async def deny(self, subject: str, count: int = 1, *, at_ms: int | None = None, action: str = "login") -> None:
        at_ms = now_ms() if at_ms is None else at_ms
        await self.write(Fold(
            subject=subject, action=action, policy="login", limit="per_user", count=count, first_ms=at_ms, last_ms=at_ms
        ))  # fmt: skip

    async def write(self, *folds: Fold) -> None:
        """One record; all folds have to lie in one partition."""
        partition = self.place(folds[0].subject)
        self.numbers[partition] = n = self.numbers.get(partition, 0) + 1
        await self._send(partition, FoldsEvent(source=self.source, n=n, at_ms=folds[-1].last_ms, folds=folds))

    async def beat(self) -> None:
        for partition in range(self.partitions):
            seq = self.numbers.get(partition, 0)
            await self._send(partition, HeartbeatEvent(source=self.source, seq=seq, at_ms=now_ms()))

    async def close(self) -> None:
        for partition in range(self.partitions):
            await self._send(partition, ClosedEvent(source=self.source, seq=self.numbers.get(partition, 0), at_ms=now_ms()))

    async def repeat(self) -> None:
        """Write everything a second time, as the heir of a dead boot's spool may."""
        for partition, value in list(self.written):
            await self.producer.send_and_wait("denials", value, partition=partition)

    async def _send(self, partition: int, record: Event) -> None:
        value = record.model_dump_json(exclude_defaults=True).encode()
        # The discriminator is a default, and the readers need it.
        value = json.dumps({"type": record.model_dump()["type"]} | json.loads(value)).encode()
        self.written.append((partition, value))
        await self.producer.send_and_wait("denials", value, partition=partition)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def read_state(client: Redis, subject: str) -> AbuseState | None:
    raw = await client.get(name_abuse(subject))
    return AbuseState.model_validate_json(raw) if raw else None


async def wait_for_ban(client: Redis, subject: str, *, offences: int = 1) -> AbuseState:
    async def look() -> AbuseState | None:
        state = await read_state(client, subject)
        return state if state and state.bans and state.offences >= offences else None

    return await poll(look, f"ban of {subject}")


async def read_topic(kafka: str, topic: str) -> list[tuple[bytes | None, bytes]]:
    """Everything in a topic, in the order of each partition."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = consumer.assignment()
        ends = await consumer.end_offsets(places)
        records = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records += [(record.key, record.value) for record in batch]
        return records
    finally:
        await consumer.stop()


@asynccontextmanager
async def run_detector(process: DetectorProcess) -> AsyncIterator[DetectorProcess]:
    """Start it, wait until it reads, and end it with the block, however often it was restarted meanwhile."""
    process.start()
    try:
        await process.wait_ready()
        yield process
    finally:
        process.kill()


@asynccontextmanager
async def open_enforcer(kafka: str) -> AsyncIterator[Enforcer]:
    """A source of denials; the topics are there."""
    partitions = (await ensure(kafka)).partitions["denials"]
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
    await producer.start()
    try:
        yield Enforcer(producer, partitions)
    finally:
        await producer.stop()
