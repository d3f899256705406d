"""The detector, killed before and after every single effect it has, on a real Redis: the end is always the same, byte for byte.

Kafka's side is a log, a changelog and a committed offset in memory, so that a run can be cut wherever it waits.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from detector.abuse_store import AbuseStore, Applied
from detector.app import Detector
from detector.factor_store import FactorStore
from detector.ladder import Offence
from detector.metrics import Metrics
from detector.publisher import Notice
from detector.rebuild import IS_INTACT
from detector.rules import Ladder, Rules
from detector.throttle_keeper import ThrottleKeeper
from lua.keys import INTACT, name_abuse
from topics.specs import DENIALS
from topics.wire import DenialRecord, Fold, FoldsEvent, HeartbeatEvent


def make_rule(name: str, action: str, **terms: object) -> dict[str, object]:
    return {"name": name, "by": "user", "match": {"action": action}, **terms}


RULES = Rules.model_validate(
    {
        "version": 1,
        "ladder": {
            "half_life": "1h",
            "jitter": 0.2,
            "rungs": [
                {"name": "warn", "penalty": "warn", "duration": "1m"},
                {"name": "tighten", "penalty": "tighten", "factor": 0.5, "duration": "1m"},
                {"name": "ban_1m", "penalty": "ban", "duration": "1m"},
                {"name": "ban_10m", "penalty": "ban", "duration": "10m"},
            ],
        },
        "rules": [
            make_rule("brute_force", "login", threshold=5, window="60s", start="warn"),
            make_rule("scraping", "search", threshold=3, window="10s", start="ban_1m"),
        ],
    }
)
USERS = ("user=cut-a", "user=cut-b", "user=cut-c")
T0 = time.time_ns() // 1_000_000 - 600_000
FLUSH_EVERY = 3
"""Records; in a process it is a time."""


class Killed(BaseException):
    """What kill -9 is to the code: it runs no further, and nothing catches it."""


@dataclass
class Fate:
    """Kills at the n-th of all the moments just before and just after an effect."""

    due: int | None = None
    passed: int = 0

    def reach(self) -> None:
        if self.due is not None and self.passed >= self.due:
            raise Killed
        self.passed += 1


@dataclass
class Kafka:
    """What outlives a killed process."""

    log: list[DenialRecord]
    changelog: dict[bytes, bytes] = field(default_factory=dict)
    committed: int = 0
    told: dict[str, set[bytes]] = field(default_factory=dict)
    """Bytes of verdicts, by their id."""


class FatedStore(AbuseStore):
    """The store, cut before and after each call."""

    def __init__(self, client: Redis, fate: Fate) -> None:
        super().__init__(client, keep_ms=KEEP_MS)
        self._fate = fate

    async def apply(self, offence: Offence, ladder: Ladder) -> Applied:
        self._fate.reach()
        applied = await super().apply(offence, ladder)
        self._fate.reach()
        return applied


KEEP_MS = DENIALS.retention_ms + RULES.longest_penalty_ms


class Edges:
    """Stands where Faust and the producer stand."""

    def __init__(self, kafka: Kafka, fate: Fate) -> None:
        self._kafka = kafka
        self._fate = fate
        place: Any = TopicPartition(DENIALS.name, 0)
        self._committed_offset = {place: kafka.committed or None}
        self.data = SimpleNamespace(data=dict(kafka.changelog))

    def highwater(self, _place: object) -> int:
        return len(self._kafka.log)

    async def send_changelog(self, _partition: int, key: bytes, value: bytes | None) -> None:
        self._fate.reach()
        if value is None:
            self._kafka.changelog.pop(key, None)
        else:
            self._kafka.changelog[key] = value
        self._fate.reach()

    async def _commit(self, offsets: dict[object, int]) -> None:
        self._fate.reach()
        [self._kafka.committed] = offsets.values()
        self._fate.reach()

    async def tell(self, notices: list[Notice]) -> None:
        for notice in notices:
            self._fate.reach()
            told = self._kafka.told.setdefault(notice.verdict.verdict_id, set())
            told.add(notice.verdict.model_dump_json().encode())
        self._fate.reach()


async def live(kafka: Kafka, client: Redis, fate: Fate) -> None:
    """One life of a detector: from what is committed to the end of the log, or to its kill."""
    edges: Any = Edges(kafka, fate)
    detector = Detector(
        bootstrap="127.0.0.1:1",
        partitions=1,
        instance="",
        rules=RULES,
        store=FatedStore(client, fate),
        publisher=edges,
        throttle=ThrottleKeeper(RULES, FactorStore(client, "cut"), edges.tell),
        metrics=Metrics(CollectorRegistry(), RULES),
    )
    detector.app.consumer = edges
    detector._table = edges
    for offset in range(kafka.committed, len(kafka.log)):
        message: Any = SimpleNamespace(
            partition=0,
            offset=offset,
            value=msgspec.json.encode(kafka.log[offset]),
            timestamp=(T0 + offset) / 1000,
            tp=TopicPartition(DENIALS.name, 0),
        )
        await detector._handle(message)
        if offset % FLUSH_EVERY == FLUSH_EVERY - 1:
            await detector.flush()
    await detector.flush()


def write_log() -> list[DenialRecord]:
    """Two sources; offences that follow one another, two in one record, one record twice, heartbeats between."""
    records: list[DenialRecord] = []
    numbers = {"s": 0, "t": 0}
    plan = [
        ("s", 0, [("a", "login", 3), ("b", "search", 2)]),
        ("t", 500, [("a", "login", 2)]),  # a is warned
        ("s", 900, [("b", "search", 1), ("c", "login", 5)]),  # b is banned, and c warned, by one record
        ("t", 1_500, [("a", "login", 5)]),  # a is tightened
        ("t", 70_000, [("a", "login", 9), ("b", "login", 4)]),  # a is banned
        ("s", 71_000, [("a", "login", 9), ("b", "search", 3)]),  # a during its ban; b harder
        ("s", 72_000, [("c", "search", 4)]),
    ]  # fmt: skip
    for source, later_ms, subjects in plan:
        numbers[source] += 1
        folds = [
            Fold(f"user=cut-{user}", action, action, "per_user", count, T0 + later_ms, T0 + later_ms)
            for user, action, count in subjects
        ]
        records.append(FoldsEvent(source, numbers[source], T0 + later_ms, folds))
        if len(records) == 4:
            records.append(records[-1])  # its writer died before it knew that it was there
        if len(records) % 4 == 0:
            records.append(HeartbeatEvent(source, numbers[source], T0 + later_ms))
    return records


async def read_end(client: Redis) -> dict[str, tuple[Any, int]]:
    return {user: (await client.get(name_abuse(user)), await client.pexpiretime(name_abuse(user))) for user in USERS}


@pytest_asyncio.fixture
async def client(redis_client: Redis) -> AsyncIterator[Redis]:
    await redis_client.set(INTACT, IS_INTACT)
    yield redis_client


async def start_anew(client: Redis) -> Kafka:
    await client.flushdb()
    await client.set(INTACT, IS_INTACT)
    return Kafka(write_log())


async def test_killed_before_or_after_any_effect_it_ends_as_undisturbed(client: Redis) -> None:
    undisturbed, count = await start_anew(client), Fate()
    await live(undisturbed, client, count)
    expected = await read_end(client)
    assert all(state for state, _ in expected.values())
    assert len(undisturbed.told) >= 6
    assert count.passed > 50
    for due in range(count.passed):
        kafka = await start_anew(client)
        with pytest.raises(Killed):
            await live(kafka, client, Fate(due))
        await live(kafka, client, Fate())
        assert await read_end(client) == expected, due
        assert kafka.told.keys() == undisturbed.told.keys(), due
        assert {len(values) for values in kafka.told.values()} == {1}, due  # told again, it is told in the same bytes
        assert kafka.committed == len(kafka.log)


async def test_killed_again_while_it_recovers_it_ends_as_undisturbed(client: Redis) -> None:
    undisturbed, count = await start_anew(client), Fate()
    await live(undisturbed, client, count)
    expected = await read_end(client)
    for due in range(3, count.passed, 7):
        kafka = await start_anew(client)
        for next_due in (due, due // 2, due // 3):
            try:
                await live(kafka, client, Fate(next_due))
            except Killed:
                continue
        await live(kafka, client, Fate())
        assert await read_end(client) == expected, due


@pytest.mark.parametrize("times", [2, 3])
async def test_log_that_is_replayed_from_its_start_ends_in_the_same_bytes(client: Redis, times: int) -> None:
    """All state of the detector is lost, and Redis answers what was judged before."""
    kafka = await start_anew(client)
    await live(kafka, client, Fate())
    expected = await read_end(client)
    for _ in range(times - 1):
        kafka.changelog, kafka.committed = {}, 0
        await live(kafka, client, Fate())
        assert await read_end(client) == expected
    assert {len(values) for values in kafka.told.values()} == {1}


@pytest.mark.parametrize("times", [2, 3])
async def test_log_that_is_written_several_times_ends_in_the_same_bytes(client: Redis, times: int) -> None:
    kafka = await start_anew(client)
    await live(kafka, client, Fate())
    expected, told = await read_end(client), kafka.told.keys()
    kafka = await start_anew(client)
    kafka.log = kafka.log * times
    await live(kafka, client, Fate())
    assert await read_end(client) == expected
    assert kafka.told.keys() == told
