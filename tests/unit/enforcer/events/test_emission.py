"""Numbering, sending and dropping of events, on a log that keeps what it is given."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.decision import Ban, Decision
from enforcer.events import emission
from enforcer.events.emission import Emitter, join_ranges
from enforcer.events.folding import Folder
from enforcer.events.outcomes import Report
from enforcer.events.producer import EmissionFailed, KafkaLog, Record
from enforcer.events.spool import Spool, Spooled
from tests.unit.enforcer.builders import make_plan
from topics.audit import Audit
from topics.codec import decode
from topics.events import ClosedEvent, DecisionEvent, Event, FoldsEvent, GapEvent, HeartbeatEvent, LoadEvent, OutcomeEvent

PARTITIONS = {"decisions": 3, "denials": 2, "outcomes": 2}
ALLOW = Decision("allow", "ok", 1000)
DENY = Decision("deny", "limit", 1000, refused_at_1=0b1)


@dataclass(slots=True)
class KeptLog(KafkaLog):
    """Keeps records instead of sending them; refuses sends while told to."""

    bootstrap: str = ""
    client_id: str = ""
    records: list[tuple[str, int, Record]] = field(default_factory=list)
    is_open: bool = False
    refusals: int = 0
    """How many sends of decisions are still to be refused."""
    connections: int = 0
    may_connect: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_connected(self) -> bool:
        return self.is_open

    async def connect(self) -> None:
        await self.may_connect.wait()
        self.partitions = dict(PARTITIONS)
        self.is_open = True
        self.connections += 1

    async def send(self, topic: str, partition: int, records: list[Record]) -> None:  # type: ignore[override]
        assert self.is_open
        if self.refusals and any(key is not None for key, _ in records):
            self.refusals -= 1
            raise EmissionFailed(f"{topic}/{partition}: refused")
        self.records += [(topic, partition, record) for record in records]

    async def close(self) -> None:
        self.is_open = False

    def events(self, topic: str) -> list[tuple[int, Event]]:
        return [(partition, decode(topic, value)) for kept, partition, (_, value) in self.records if kept == topic]


@pytest.fixture
def log() -> KeptLog:
    kept = KeptLog()
    kept.may_connect.set()
    return kept


@pytest.fixture
def emitter(log: KeptLog) -> Emitter:
    return Emitter("tested/0/ab", log, Folder())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 what is waited for tells nobody
            await asyncio.sleep(0)


async def drain(emitter: Emitter) -> None:
    """Everything that was offered is sent, and the source is closed."""
    emitter.start()
    await emitter.close(timeout_s=10)


def list_seqs(log: KeptLog) -> list[int]:
    return sorted(event.seq for _, event in log.events("decisions") if isinstance(event, DecisionEvent))


def audit(log: KeptLog, topic: str = "decisions") -> list[str]:
    """What the audit says of the source; proves the sender and the auditor by each other."""
    judge = Audit(topic, dict.fromkeys(range(PARTITIONS[topic]), 0))  # type: ignore[arg-type]
    for offset, (kept, partition, (_, value)) in enumerate(log.records):
        if kept == topic:
            judge.read(partition, offset, value)
    report = judge.conclude()
    assert not report.is_faulty
    return sorted({account.state for account in report.accounts})


async def test_every_offer_is_numbered_and_sent_and_the_source_closes(emitter: Emitter, log: KeptLog) -> None:
    for number in range(50):
        emitter.offer(make_plan(f"user-{number}"), ALLOW)
    await drain(emitter)
    assert list_seqs(log) == list(range(1, 51))
    assert [event.seq for _, event in log.events("decisions") if isinstance(event, ClosedEvent)] == [50] * 3
    assert len([event for _, event in log.events("denials") if isinstance(event, ClosedEvent)]) == 2
    assert (emitter.stats.offered, emitter.stats.acknowledged, emitter.stats.dropped, emitter.buffered) == (50, 50, 0, 0)
    assert audit(log) == audit(log, "denials") == audit(log, "outcomes") == ["closed"]


async def test_what_backends_report_and_what_is_admitted_is_sent_numbered(emitter: Emitter, log: KeptLog) -> None:
    now_ms = time.time_ns() // 1_000_000
    emitter.outcomes.add([Report("login", now_ms // 1000 * 1000, 1, 0, 0, ((460, 1),))], now_ms)
    for decision in (ALLOW, DENY, ALLOW):
        emitter.offer(make_plan(), decision)
    await drain(emitter)
    events = [event for _, event in log.events("outcomes")]
    assert [(event.n, event.latencies) for event in events if isinstance(event, OutcomeEvent)] == [(1, {460: 1})]
    assert [(event.n, event.admitted_tokens) for event in events if isinstance(event, LoadEvent)] == [(2, 2)]
    assert audit(log, "outcomes") == ["closed"]


async def test_records_of_one_subject_stay_in_one_partition_under_its_key(emitter: Emitter, log: KeptLog) -> None:
    for _ in range(3):
        for number in range(20):
            emitter.offer(make_plan(f"user-{number}"), ALLOW)
    await drain(emitter)
    places: dict[bytes | None, set[int]] = {}
    for topic, partition, (key, _) in log.records:
        if topic == "decisions" and key is not None:
            places.setdefault(key, set()).add(partition)
    assert len(places) == 20
    assert all(len(partitions) == 1 for partitions in places.values())
    assert b"user=user-0" in places
    assert set.union(*places.values()) == {0, 1, 2}


async def test_event_tells_the_whole_decision(emitter: Emitter, log: KeptLog) -> None:
    ban = Ban(61_000, 2, "brute_force", "v1", "user=alice", ("login",))
    plan = make_plan(attributes={"ip": "203.0.113.7"}, cost=2, suppressed=3, suppressed_limits=("login:per_user",))
    emitter.offer(plan, Decision("ban", "banned", 1000, retry_after_ms=60_000, ban=ban, is_cached=True))
    await drain(emitter)
    (event,) = [event for _, event in log.events("decisions") if isinstance(event, DecisionEvent)]
    assert event == DecisionEvent(
        source="tested/0/ab",
        seq=1,
        decided_at_ms=1000,
        user_id="alice",
        action="login",
        attributes={"ip": "203.0.113.7"},
        policy="login",
        policy_version=plan.template.version,
        outcome="ban",
        reason="banned",
        cached=True,
        suppressed=3,
        suppressed_limits=("login:per_user",),
        cost=2,
        retry_after_ms=60_000,
        ban_until_ms=61_000,
        verdict_id="v1",
    )


async def test_check_without_a_subject_is_emitted_too(emitter: Emitter, log: KeptLog) -> None:
    from enforcer.decisions.planner import Planner
    from enforcer.envoy.rls_request import plan_request
    from ratchet.envoy import rls_pb2
    from tests.unit.enforcer.builders import POLICIES_IN_FORCE

    emitter.offer(plan_request(rls_pb2.RateLimitRequest(domain="login"), Planner(POLICIES_IN_FORCE)), ALLOW)
    await drain(emitter)
    assert list_seqs(log) == [1]


async def test_nothing_waits_for_a_log_that_is_away_and_all_is_sent_when_it_comes(emitter: Emitter, log: KeptLog) -> None:
    log.may_connect.clear()
    task = emitter.start()
    for _ in range(10):
        emitter.offer(make_plan(), DENY)
        await asyncio.sleep(0)
    assert (emitter.buffered, log.records, task.done()) == (10, [], False)
    log.may_connect.set()
    await emitter.close(timeout_s=10)
    assert list_seqs(log) == list(range(1, 11))
    assert audit(log) == ["closed"]


async def test_close_gives_up_in_time_when_the_log_never_comes(emitter: Emitter, log: KeptLog) -> None:
    log.may_connect.clear()
    emitter.start()
    emitter.offer(make_plan(), ALLOW)
    await emitter.close(timeout_s=0.01)
    assert log.records == []


async def test_oldest_allows_are_dropped_first_and_announced(
    emitter: Emitter, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "MOST_BUFFERED", 20)
    log.may_connect.clear()
    emitter.start()
    for number in range(1, 26):
        emitter.offer(make_plan(), DENY if number <= 5 else ALLOW)
        assert emitter.buffered <= 20
    log.may_connect.set()
    await emitter.close(timeout_s=10)
    gaps = [event for _, event in log.events("decisions") if isinstance(event, GapEvent)]
    dropped = [seq for gap in gaps for first, last in gap.ranges for seq in range(first, last + 1)]
    assert {gap.reason for gap in gaps} == {"buffer_full"}
    assert dropped == list(range(6, 6 + len(dropped)))
    assert sorted(list_seqs(log) + dropped) == list(range(1, 26))
    assert emitter.stats.dropped == len(dropped) >= 5
    assert audit(log) == ["closed"]


async def test_refusals_are_dropped_only_when_nothing_else_is_left(
    emitter: Emitter, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "MOST_BUFFERED", 20)
    log.may_connect.clear()
    emitter.start()
    for _ in range(21):
        emitter.offer(make_plan(), DENY)
    log.may_connect.set()
    await emitter.close(timeout_s=10)
    (gap,) = [event for _, event in log.events("decisions") if isinstance(event, GapEvent)]
    assert gap.ranges == ((1, 2),)
    assert list_seqs(log) == list(range(3, 22))
    folds = [fold for _, event in log.events("denials") if isinstance(event, FoldsEvent) for fold in event.folds]
    assert sum(fold.count for fold in folds) == 21, "what is dropped from the record still counts"


async def test_batch_that_was_not_acknowledged_is_announced_and_not_sent_again(emitter: Emitter, log: KeptLog) -> None:
    log.refusals = 1
    emitter.offer(make_plan(), ALLOW)
    await drain(emitter)
    (gap,) = [event for _, event in log.events("decisions") if isinstance(event, GapEvent)]
    assert (gap.reason, gap.ranges) == ("refused", ((1, 1),))
    assert (list_seqs(log), emitter.stats.failures, log.connections) == ([], 1, 2)
    assert audit(log) == ["closed"]


async def test_folds_are_sent_until_they_are_there_numbered_in_order(emitter: Emitter, log: KeptLog) -> None:
    log.refusals = 4
    for user in ("a", "b", "c", "d", "e"):
        emitter.offer(make_plan(user), DENY)
    await drain(emitter)
    records = [(partition, event) for partition, event in log.events("denials") if isinstance(event, FoldsEvent)]
    assert sorted(fold.subject for _, event in records for fold in event.folds) == [f"user={user}" for user in "abcde"]
    for partition in (0, 1):
        assert [event.n for place, event in records if place == partition] == [1]
    assert audit(log) == audit(log, "denials") == ["closed"]


async def test_events_that_are_on_their_way_to_the_disk_are_sent_before_a_mark_speaks_for_them(
    log: KeptLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "SPOOL_FROM", 5)
    monkeypatch.setattr(emission, "FLUSH_S", 0)
    monkeypatch.setattr(emission, "HEARTBEAT_S", 0)
    may_write, is_writing = threading.Event(), threading.Event()

    class SlowSpool(Spool):
        def append(self, records: Sequence[Spooled]) -> list[int]:
            is_writing.set()
            may_write.wait(10)
            return super().append(records)

    spool = SlowSpool(tmp_path / "boot", 10**9)
    spool.open()
    emitter = Emitter("tested/0/ab", log, Folder(), spool)
    for _ in range(10):
        emitter.offer(make_plan(), ALLOW)
    log.may_connect.clear()
    emitter.start()
    await until(is_writing.is_set)
    log.may_connect.set()
    for _ in range(1000):  # turns of the loop in which it could speak too early
        await asyncio.sleep(0)
    said = max((event.seq for _, event in log.events("decisions") if isinstance(event, HeartbeatEvent)), default=0)
    assert said <= len(list_seqs(log))
    may_write.set()
    await emitter.close(timeout_s=10)
    assert list_seqs(log) == list(range(1, 11))
    assert audit(log) == ["closed"]


async def test_spooled_events_that_kafka_refused_are_announced_and_not_sent_again(
    log: KeptLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "SPOOL_FROM", 5)
    spool = Spool(tmp_path / "boot", 10**9)
    spool.open()
    emitter = Emitter("tested/0/ab", log, Folder(), spool)
    log.may_connect.clear()
    for number in range(30):
        emitter.offer(make_plan(f"user-{number}"), ALLOW)
    emitter.start()
    await until(lambda: not emitter.buffered and not spool.is_empty)
    log.refusals = 1
    log.may_connect.set()
    await emitter.close(timeout_s=10)
    gaps = [event for _, event in log.events("decisions") if isinstance(event, GapEvent)]
    dropped = [seq for gap in gaps for first, last in gap.ranges for seq in range(first, last + 1)]
    assert dropped
    assert sorted(list_seqs(log) + dropped) == list(range(1, 31)), "each event once, sent or announced"
    assert audit(log) == ["closed"]


async def test_events_left_at_the_end_are_adopted_by_the_next_process(log: KeptLog, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "first", 10**9)
    spool.open()
    first = Emitter("tested/0/first", log, Folder(), spool)
    log.may_connect.clear()
    first.start()
    for _ in range(7):
        first.offer(make_plan(), DENY)
    await first.close(timeout_s=0.01)
    assert log.records == []
    log.may_connect.set()
    heir_spool = Spool(tmp_path / "second", 10**9)
    heir_spool.open()
    heir = Emitter("tested/0/second", log, Folder(), heir_spool)
    heir.offer(make_plan(), ALLOW)
    heir.start()
    await until(lambda: len(list_seqs(log)) == 8)
    await heir.close(timeout_s=10)
    found = sorted((event.source, event.seq) for _, event in log.events("decisions") if isinstance(event, DecisionEvent))
    assert found == [("tested/0/first", seq) for seq in range(1, 8)] + [("tested/0/second", 1)]
    assert not spool.folder.exists()
    assert not heir_spool.folder.exists()


async def test_heartbeats_tell_up_to_where_all_is_said(emitter: Emitter, log: KeptLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emission, "FLUSH_S", 0)
    monkeypatch.setattr(emission, "HEARTBEAT_S", 0)
    emitter.start()
    emitter.offer(make_plan(), ALLOW)
    await until(lambda: any(isinstance(event, HeartbeatEvent) and event.seq == 1 for _, event in log.events("decisions")))
    assert list_seqs(log) == [1]
    emitter.offer(make_plan(), ALLOW)
    await emitter.close(timeout_s=10)
    for partition in range(PARTITIONS["decisions"]):
        seqs = [
            event.seq for place, event in log.events("decisions") if place == partition and isinstance(event, HeartbeatEvent)
        ]
        assert seqs == sorted(seqs)
        assert 1 in seqs


@given(seqs=st.lists(st.integers(1, 60)))
def test_ranges_hold_every_number_once_and_do_not_touch(seqs: list[int]) -> None:
    ranges = join_ranges(seqs)
    assert [seq for first, last in ranges for seq in range(first, last + 1)] == sorted(set(seqs))
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ranges))


def test_ranges_are_written_as_documented() -> None:
    assert join_ranges([7, 3, 1, 2]) == ((1, 3), (7, 7))
    assert join_ranges([]) == ()
