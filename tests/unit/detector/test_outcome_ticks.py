"""From records of ``outcomes`` to ticks."""

from __future__ import annotations

import msgspec
import pytest

from detector.outcome_ticks import MOST_SOURCES, Ticks, decode_outcomes
from detector.records import UndecodableRecord
from detector.throttle import Tick
from topics.wire import ClosedEvent, HeartbeatEvent, LoadEvent, OutcomeEvent

T0 = 1_800_000_000_000
FAST, SLOW = 500, 700


def outcome(
    n: int, *, source: str = "one", second_ms: int = T0, count: int = 10, bucket: int = FAST, **more: int
) -> OutcomeEvent:
    return OutcomeEvent(source, n, "login", second_ms, count, more.get("errors", 0), more.get("timeouts", 0), {bucket: count})


def end(ticks: Ticks, taken_ms: int = T0 + 1000) -> dict[str, Tick] | None:
    return ticks.add(HeartbeatEvent("clock", 0, taken_ms), taken_ms)


def test_tick_ends_with_the_first_record_of_a_later_second() -> None:
    ticks = Ticks()
    assert ticks.add(outcome(1), T0 + 10) is None
    assert end(ticks, T0 + 999) is None
    ended = end(ticks)
    assert ended is not None
    assert (ended["login"].at_ms, ended["login"].count) == (T0 + 1000, 10)
    assert end(ticks, T0 + 2000) == {}


def test_sketches_of_all_sources_are_merged() -> None:
    ticks = Ticks()
    ticks.add(outcome(1, count=80), T0)
    ticks.add(outcome(1, source="two", count=20, bucket=SLOW, errors=3, timeouts=5), T0)
    ended = end(ticks)
    assert ended is not None
    tick = ended["login"]
    assert (tick.count, tick.errors) == (100, 5)
    assert tick.p90_us == pytest.approx(1.0202**SLOW, rel=0.02)


def test_loads_of_all_enforcers_are_added() -> None:
    ticks = Ticks()
    ticks.add(LoadEvent("one", 1, "login", T0, 30, 3, 100_000, 8), T0)
    ticks.add(LoadEvent("two", 1, "login", T0, 20, 2, 100_000, 8), T0)
    assert end(ticks) == {"login": Tick(T0 + 1000, 0, 0, 0.0, 50, 200_000, 8)}


def test_record_that_is_read_again_changes_nothing() -> None:
    ticks = Ticks()
    for n in (1, 2, 1, 2):
        ticks.add(outcome(n), T0)
    ended = end(ticks)
    assert ended is not None
    assert ended["login"].count == 20


def test_source_that_closed_may_begin_anew_and_late_reports_do_not_count() -> None:
    ticks = Ticks()
    ticks.add(outcome(7), T0)
    ticks.add(ClosedEvent("one", 7, T0), T0)
    ticks.add(outcome(1), T0)
    ticks.add(outcome(2, second_ms=T0 - 16_000), T0)
    ended = end(ticks)
    assert ended is not None
    assert (ended["login"].count, ticks.late) == (20, 1)


def test_sources_are_bounded() -> None:
    ticks = Ticks()
    for number in range(MOST_SOURCES + 10):
        ticks.add(outcome(1, source=f"s{number}"), T0)
    assert len(ticks._numbers) == MOST_SOURCES


@pytest.mark.parametrize("value", [None, b"", b"{}", b'{"type":"folds"}', b'{"type":"load","source":"a","n":0}', b"\xff"])
def test_what_is_no_record_of_the_topic_is_refused(value: bytes | None) -> None:
    with pytest.raises(UndecodableRecord):
        decode_outcomes(value)


def test_what_enforcers_write_is_read() -> None:
    assert decode_outcomes(msgspec.json.encode(outcome(1))) == outcome(1)
