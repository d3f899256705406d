"""Decisions are read as they were written, put in the order of their time, and count once."""

from __future__ import annotations

import msgspec
import pytest

from topics import recorded
from topics.recorded import SLACK_MS, Gap, Order, Recorded, decode_record
from topics.wire import ClosedEvent, DecisionEvent, GapEvent, HeartbeatEvent

START_MS = 1_800_000_000_000


def record(seq: int, at_ms: int = START_MS) -> Recorded:
    return Recorded(
        source="a/0/1",
        seq=seq,
        decided_at_ms=at_ms,
        user_id="alice",
        action="login",
        policy_version="v",
        outcome="allow",
        reason="ok",
    )


def test_decisions_are_put_in_order_and_count_once() -> None:
    order = Order()
    times = [(1, 0), (3, 40), (2, 20), (3, 40), (4, SLACK_MS + 30)]
    for seq, at_ms in times:
        order.add(record(seq, START_MS + at_ms))
    assert [each.seq for each in order.take()] == [1, 2]
    assert [each.seq for each in order.take(is_last=True)] == [3, 4]
    assert order.doubled == 1


def test_what_waits_for_its_turn_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST_WAITING", 2)
    order = Order()
    for seq in range(1, 6):
        order.add(record(seq))
    assert [each.seq for each in order.take()] == [1, 2, 3]


def test_events_are_read_from_the_topic_as_they_are_written() -> None:
    written = DecisionEvent("a/0/1", 7, START_MS, "alice", "login", "login", "v", "deny", "limit", cost=2, reported=True)
    read = decode_record(msgspec.json.encode(written))
    assert isinstance(read, Recorded)
    for name in read.__struct_fields__:
        assert getattr(read, name) == getattr(written, name)
    gap = decode_record(msgspec.json.encode(GapEvent("a/0/1", ((1, 2),), START_MS, "buffer_full")))
    assert isinstance(gap, Gap)
    assert gap.ranges == [(1, 2)]
    for mark in (HeartbeatEvent("a/0/1", 1, START_MS), ClosedEvent("a/0/1", 1, START_MS)):
        assert not isinstance(decode_record(msgspec.json.encode(mark)), Recorded | Gap)
