from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topics.audit import Account, Audit, AuditedTopic, AuditReport
from topics.codec import encode
from topics.events import ClosedEvent, DecisionEvent, Event, Fold, FoldsEvent, GapEvent, HeartbeatEvent

Logs = Mapping[int, list[Event]]


def decision(seq: int, source: str = "a/0/1") -> DecisionEvent:
    return DecisionEvent(
        source=source,
        seq=seq,
        decided_at_ms=1,
        user_id="alice",
        action="login",
        policy="login",
        policy_version="1",
        outcome="allow",
        reason="ok",
    )


def folds(n: int, source: str = "a/0/1") -> FoldsEvent:
    fold = Fold(subject="user=alice", action="login", policy="login", limit="per_user", count=1, first_ms=1, last_ms=1)
    return FoldsEvent(source=source, n=n, at_ms=1, folds=(fold,))


def heartbeat(seq: int, source: str = "a/0/1", at_ms: int = 5) -> HeartbeatEvent:
    return HeartbeatEvent(source=source, seq=seq, at_ms=at_ms)


def closed(seq: int, source: str = "a/0/1") -> ClosedEvent:
    return ClosedEvent(source=source, seq=seq, at_ms=9)


def gap(*ranges: tuple[int, int]) -> GapEvent:
    return GapEvent(source="a/0/1", ranges=ranges, at_ms=1, reason="buffer_full")


def audit(logs: Logs, topic: AuditedTopic = "decisions", edges: Mapping[int, int] | None = None) -> AuditReport:
    """Audit what is left of each partition from its edge on."""
    edges = edges or {}
    run = Audit(topic, {partition: edges.get(partition, 0) for partition in logs})
    for partition, events in logs.items():
        for offset, event in enumerate(events):
            if offset >= edges.get(partition, 0):
                run.read(partition, offset, encode(event))
    return run.conclude()


def only(report: AuditReport) -> Account:
    (account,) = report.accounts
    return account


def test_closed_source_with_all_its_numbers_is_clean() -> None:
    report = audit({0: [decision(1), decision(3), closed(3)], 1: [decision(2), closed(3)]})
    assert not report.is_faulty
    assert only(report).state == "closed"
    assert (only(report).first, only(report).last, only(report).read, only(report).tail) == (1, 3, 3, 0)


def test_missing_number_below_a_mark_of_every_partition_is_reported() -> None:
    report = audit({0: [decision(1), heartbeat(4)], 1: [decision(4), heartbeat(4)]})
    assert report.is_faulty
    assert only(report).missing.ranges == ((2, 3),)
    assert only(report).missing.numbers == 2


def test_mark_in_one_partition_alone_proves_nothing_of_another_that_was_cut_earlier() -> None:
    report = audit({0: [decision(1), heartbeat(1), heartbeat(3)], 1: [heartbeat(1)]})
    assert not report.is_faulty
    assert (only(report).state, only(report).last) == ("open", 1)


def test_numbers_above_the_last_mark_are_the_unknown_tail() -> None:
    report = audit({0: [decision(1), heartbeat(1), decision(4)]})
    assert not report.is_faulty
    assert (only(report).state, only(report).last, only(report).tail, only(report).last_mark_ms) == ("open", 1, 1, 5)


def test_source_without_a_mark_in_some_partition_is_unproven_and_names_it() -> None:
    report = audit({0: [decision(2), heartbeat(2)], 1: []})
    assert not report.is_faulty
    assert (only(report).state, only(report).silent_partitions) == ("unproven", (1,))


def test_doubled_numbers_are_reported_also_in_the_tail() -> None:
    report = audit({0: [decision(1), heartbeat(1), decision(2), decision(2)]})
    assert report.is_faulty
    assert only(report).doubled.ranges == ((2, 2),)


def test_announced_gap_is_not_missing_and_what_arrived_all_the_same_is_not_announced() -> None:
    report = audit({0: [decision(1), decision(3), gap((2, 5)), decision(6), closed(6)]})
    assert not report.is_faulty
    assert report.has_announced
    assert only(report).announced.ranges == ((2, 2), (4, 5))


def test_number_above_the_closing_one_is_beyond_the_end() -> None:
    report = audit({0: [decision(1), closed(1), decision(2)]})
    assert report.is_faulty
    assert only(report).beyond.ranges == ((2, 2),)


def test_source_that_closed_in_some_partitions_only_is_open() -> None:
    report = audit({0: [decision(1), closed(1)], 1: [heartbeat(1)]})
    assert only(report).state == "open"


def test_source_that_closed_without_an_event_is_closed() -> None:
    report = audit({0: [heartbeat(0), closed(0)]})
    assert (only(report).state, report.is_faulty) == ("closed", False)


def test_what_retention_took_is_not_missing_and_the_report_says_from_where_on_it_proves() -> None:
    logs: Logs = {
        0: [decision(1), heartbeat(2), decision(3), heartbeat(4), decision(5), heartbeat(6)],
        1: [heartbeat(0), decision(2), heartbeat(2), decision(4), heartbeat(4), decision(6), heartbeat(6)],
    }
    report = audit(logs, edges={0: 3})
    assert not report.is_faulty
    assert report.edges == {0: 3}
    assert (only(report).first, only(report).last) == (7, 6)
    report = audit(logs, edges={0: 1})
    assert (only(report).first, only(report).last, report.is_faulty) == (5, 6, False)


def test_deleted_event_may_be_numbered_higher_than_the_first_mark_that_is_left() -> None:
    logs: Logs = {0: [decision(2), heartbeat(1), heartbeat(3)], 1: [heartbeat(0), decision(1), decision(3), heartbeat(3)]}
    report = audit(logs, edges={0: 1})
    assert (only(report).first, report.is_faulty) == (4, False)


def test_source_that_began_after_the_edge_is_judged_from_its_first_number() -> None:
    report = audit({0: [decision(1, "old"), heartbeat(0), decision(2), heartbeat(2)]}, edges={0: 1})
    assert (only(report).first, only(report).missing.ranges) == (1, ((1, 1),))


def test_sources_are_judged_each_on_its_own_and_faulty_ones_come_first() -> None:
    report = audit({0: [decision(1, "a"), heartbeat(1, "a"), decision(2, "b"), heartbeat(2, "b")]})
    assert [(account.source, account.is_faulty) for account in report.accounts] == [("b", True), ("a", False)]


def test_denials_are_numbered_in_each_partition() -> None:
    report = audit({0: [folds(1), folds(2), closed(2)], 1: [folds(1), folds(3), closed(3)]}, "denials")
    assert [(account.partition, account.missing.ranges) for account in report.accounts] == [(1, ((2, 2),)), (0, ())]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", "Invalid JSON"),
        (None, "no value"),
        (b"\xff", "Invalid JSON"),
        (b'{"type":"decision","source":"a","seq":0}', "seq: "),
        (b'{"type":"folds","source":"a","n":1}', "does not match any of the expected tags"),
        (b'{"type":"heartbeat","source":"a","seq":1,"at_ms":1,"v":2}', "v: "),
        (b'{"type":"gap","source":"a","ranges":[[3,2]],"at_ms":1,"reason":"refused"}', "a dropped range ends before it begins"),
    ],
)
def test_record_that_is_no_event_is_listed_with_its_place(value: bytes | None, error: str) -> None:
    run = Audit("decisions", {3: 0})
    run.read(3, 17, value)
    report = run.conclude()
    assert report.is_faulty
    assert (report.undecodable, report.bad_records[0].partition, report.bad_records[0].offset) == (1, 3, 17)
    assert error in report.bad_records[0].error


def test_spelling_that_only_the_models_accept_is_read() -> None:
    run = Audit("decisions", {0: 0})
    run.read(0, 0, b'{"type":"heartbeat","source":"a","seq":"0","at_ms":1}')
    assert not run.conclude().is_faulty


def test_lists_are_cut_and_the_rest_is_counted() -> None:
    report = audit({0: [*(decision(seq) for seq in range(2, 502, 2)), heartbeat(501)]})
    assert len(only(report).missing.ranges) == 100
    assert only(report).missing.numbers == 251


PLACES = range(3)
STEPS = st.lists(
    st.sampled_from(["decide 0", "decide 1", "decide 2", "send 0", "send 1", "send 2", "beat"]), min_size=12, max_size=80
)
SHARES = st.tuples(*[st.floats(0, 1)] * 3)


def produce(steps: Iterable[str], *, opens: bool) -> list[tuple[int, Event]]:
    """Play a producer that keeps its promises: what it appends, to which partition, in the order of real time."""
    log: list[tuple[int, Event]] = []
    queues: dict[int, list[Event]] = {place: [] for place in PLACES}
    seq, mark = 0, None

    def send(place: int) -> None:
        log.extend((place, event) for event in queues[place])
        queues[place].clear()

    if opens:
        log.extend((place, heartbeat(0)) for place in PLACES)
    for step in steps:
        verb, _, place = step.partition(" ")
        if verb == "decide":
            seq += 1
            queues[int(place)].append(decision(seq))
        elif verb == "send":
            send(int(place))
        elif mark is None:
            # It flushes, and writes the mark at the next beat: what is sent meanwhile is numbered higher and stands before it.
            for each in PLACES:
                send(each)
            mark = seq
        else:
            # A mark of number 0 is never written after an event.
            log.extend((each, heartbeat(mark)) for each in PLACES if mark)
            mark = None
    return log


@given(STEPS, st.booleans(), SHARES, SHARES)
@settings(max_examples=400)
def test_no_cut_and_no_edge_makes_a_false_gap(
    steps: list[str], opens: bool, cuts: tuple[float, ...], edges: tuple[float, ...]
) -> None:
    log = produce(steps * 2, opens=opens)
    # Each partition is cut at another instant, and retention has come to another place in it.
    logs = {
        place: [event for time, (at, event) in enumerate(log) if at == place and time <= cuts[place] * len(log)]
        for place in PLACES
    }
    assert not audit(logs, edges={place: int(edges[place] * len(logs[place])) for place in PLACES}).is_faulty


@given(STEPS, st.data())
def test_what_is_lost_below_the_marks_is_found(steps: list[str], data: st.DataObject) -> None:
    log = produce([*steps, "decide 1", *["beat"] * 4], opens=True)
    lost = data.draw(st.sampled_from([event for _, event in log if isinstance(event, DecisionEvent)]))
    logs = {place: [event for at, event in log if at == place and event is not lost] for place in PLACES}
    assert only(audit(logs)).missing.ranges == ((lost.seq, lost.seq),)
