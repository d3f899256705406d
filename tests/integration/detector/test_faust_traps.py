"""What Faust is known to do, and what keeps the detector from it; docs/detection-faust.md has the whole list."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from faust.types import TP, ProcessingGuarantee
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from detector import process
from detector.abuse_store import Applied
from detector.app import Detector, spec_changelog
from detector.ladder import Offence
from detector.metrics import Metrics
from detector.process import STALLED_AFTER_S, _Watch
from detector.rebuild import IS_INTACT
from detector.rules import Ladder
from lua.keys import INTACT, name_abuse
from tests.integration.detector.test_cuts import RULES, T0, Edges, Fate, FatedStore, Kafka, live, write_log
from topics.specs import DENIALS
from topics.wire import Fold, FoldsEvent


class BrokenStore(FatedStore):
    """Fails at one subject in a way that nobody foresaw."""

    async def apply(self, offence: Offence, ladder: Ladder) -> Applied:
        if offence.subject == "user=broken":
            raise ZeroDivisionError("nobody foresaw it")
        return await super().apply(offence, ladder)


class BuryingEdges(Edges):
    """Remembers what was set aside."""

    def __init__(self, kafka: Kafka, fate: Fate) -> None:
        super().__init__(kafka, fate)
        self.buried: list[int] = []

    async def bury(self, record: Any, _error: object) -> None:
        self.buried.append(record.offset)


def make_detector(store: Any = None, edges: Any = None) -> Detector:
    throttle: Any = SimpleNamespace(offsets={})
    detector = Detector(
        bootstrap="127.0.0.1:1",
        partitions=8,
        instance="",
        rules=RULES,
        store=store,
        publisher=edges,
        throttle=throttle,
        metrics=Metrics(CollectorRegistry(), RULES),
    )
    if edges:
        detector.app.consumer = edges
        detector._table = edges
    return detector


def make_message(offset: int, user: str) -> Any:
    fold = Fold(f"user={user}", "search", "search", "per_user", 3, T0, T0)
    return SimpleNamespace(
        partition=0,
        offset=offset,
        value=msgspec.json.encode(FoldsEvent("s", offset + 1, T0, [fold])),
        timestamp=T0 / 1000,
        tp=TopicPartition(DENIALS.name, 0),
    )


async def test_exception_in_the_agent_sets_its_record_aside_and_the_next_one_counts(redis_client: Redis) -> None:
    """Faust would ack the record, and it would be gone."""
    await redis_client.set(INTACT, IS_INTACT)
    edges = BuryingEdges(Kafka([]), Fate())
    detector = make_detector(BrokenStore(redis_client, Fate()), edges)
    for offset, user in enumerate(("before", "broken", "after")):
        await detector._handle(make_message(offset, user))
    assert edges.buried == [1]
    assert [await redis_client.exists(name_abuse(f"user={user}")) for user in ("before", "broken", "after")] == [1, 0, 1]
    await detector.flush()
    assert edges._kafka.committed == 3


async def test_offsets_never_pass_what_is_written_down(redis_client: Redis) -> None:
    """Faust's own acks out of order commit one record too many."""

    class Strict(Kafka):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "committed" and value:
                rows = [key for key in self.changelog if not key.endswith(b"/")]
                assert rows
                assert msgspec.msgpack.decode(self.changelog[b"0/"])[0] >= value - 2  # a heartbeat alone writes no progress
            super().__setattr__(name, value)

    await redis_client.set(INTACT, IS_INTACT)
    kafka = Strict(write_log())
    await live(kafka, redis_client, Fate())
    assert kafka.committed == len(kafka.log)


def test_faust_acks_nothing_counts_one_partition_per_agent_and_claims_no_exactly_once() -> None:
    detector = make_detector()
    agents: Any = detector.app.agents
    assert agents
    for agent in agents.values():
        assert (agent.concurrency, agent.channel.acks) == (1, False)
    [counting] = [agent for agent in agents.values() if agent.channel is detector._topic]
    assert counting.isolated_partitions
    conf: Any = detector.app.conf
    assert conf.processing_guarantee is ProcessingGuarantee.AT_LEAST_ONCE


def test_defaults_that_would_take_a_minute_to_see_a_dead_process_are_not_in_force() -> None:
    conf = make_detector().app.conf
    assert (conf.broker_session_timeout, conf.broker_heartbeat_interval, conf.broker_rebalance_timeout) == (6.0, 2.0, 10.0)


@pytest.mark.parametrize(("replication", "least"), [(1, "1"), (3, "2")])
def test_changelog_is_made_by_us_compacted_and_replicated_as_far_as_there_are_brokers(replication: int, least: str) -> None:
    """Faust would make it with one replica."""
    spec = spec_changelog(8)
    config = spec.configure(replication)
    assert (spec.partitions, config["cleanup.policy"], config["min.insync.replicas"]) == (8, "compact", least)


def test_changelog_has_the_name_that_faust_looks_for() -> None:
    detector = make_detector()
    assert detector._table.changelog_topic.topics == (spec_changelog(8).name,)


class Stuck:
    """A detector as the watch sees it."""

    app = SimpleNamespace(crashed=False, should_stop=False, crash_reason=None)
    partitions = frozenset({0})
    is_waiting = False
    is_reading = True
    handled = 7
    lag = 3

    def measure_lag(self) -> int:
        return self.lag

    def count_subjects(self) -> int:
        return 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "no record was handled for 60 s, and 3 are waiting"),
        ({"lag": 0}, ""),
        ({"is_waiting": True}, ""),
        ({"lag": 0, "is_reading": False}, "no record was handled for 60 s, and the group has not settled"),
    ],
    ids=["records wait and none is handled", "nothing waits", "Redis or Kafka is away", "a rebalance does not end"],
)
def test_agent_that_died_silently_ends_the_process(clock: SimpleNamespace, changes: dict[str, Any], reason: str) -> None:
    stuck: Any = Stuck()
    watch = _Watch(stuck, Metrics(CollectorRegistry(), RULES))
    assert watch.look() == ""
    for name, value in changes.items():
        setattr(stuck, name, value)
    clock.now_s += STALLED_AFTER_S + 1
    assert watch.look() == reason


def test_progress_keeps_the_process_alive(clock: SimpleNamespace) -> None:
    stuck: Any = Stuck()
    watch = _Watch(stuck, Metrics(CollectorRegistry(), RULES))
    for _ in range(5):
        stuck.handled += 1
        clock.now_s += STALLED_AFTER_S - 1
        assert watch.look() == ""


def test_agent_that_died_before_its_first_record_lags_too(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = make_detector()
    detector.app.consumer = SimpleNamespace(  # type: ignore[assignment]
        _committed_offset={TP(DENIALS.name, 0): 40}, highwater=lambda _place: 100
    )
    monkeypatch.setattr(Detector, "partitions", frozenset({0, 1}))
    assert detector.measure_lag() == 60


async def test_nothing_is_committed_between_the_end_of_one_generation_and_the_next() -> None:
    committed: list[object] = []

    async def commit(offsets: object) -> bool:
        committed.append(offsets)
        return True

    detector = make_detector()
    detector.app.consumer = SimpleNamespace(_commit=commit)  # type: ignore[assignment]
    throttle: Any = SimpleNamespace(offsets={0: 7}, keep=lambda _partitions: None)
    detector._throttle = throttle
    await detector._on_revoked(None, {TP(DENIALS.name, 0)})
    assert len(committed) == 1
    await detector.flush()
    assert len(committed) == 1
    await detector._on_assigned(None, {TP(DENIALS.name, 0)})
    await detector.flush()
    assert len(committed) == 2
