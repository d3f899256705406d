"""What backends report: bounds, merging, and what is dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enforcer.events import outcomes
from enforcer.events.outcomes import InvalidReport, Merged, Outcomes, Report

NOW_MS = 1_700_000_005_500
SECOND_MS = 1_700_000_005_000
REPORT = Report("login", SECOND_MS, 3, 1, 1, ((460, 2), (575, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": ""}, "action '' is not 1 to 128 printable ASCII characters without spaces"),
        ({"second_ms": SECOND_MS + 1}, "second_ms is 1700000005001; whole seconds are allowed, multiples of 1000"),
        ({"second_ms": SECOND_MS - 10_000}, "second_ms is 10500 ms old; at most 10000 are allowed"),
        ({"second_ms": SECOND_MS + 3000}, "second_ms is 2500 ms ahead of this enforcer's clock; at most 2000 are allowed"),
        ({"count": 0}, "count is 0; a second without requests is not reported"),
        ({"errors": 4}, "errors is 4, more than count, 3"),
        ({"timeouts": 4}, "timeouts is 4, more than count, 3"),
        ({"latencies": ((-1, 3),)}, "latencies: the index -1 is not 0 to 1275"),
        ({"latencies": ((1276, 3),)}, "latencies: the index 1276 is not 0 to 1275"),
        ({"latencies": ((460, 2),)}, "latencies hold 2 requests, count says 3"),
    ],
)
def test_a_bad_report_is_named_and_nothing_of_its_call_is_taken(change: dict[str, object], message: str) -> None:
    taken = Outcomes()
    with pytest.raises(InvalidReport) as refused:
        taken.add([REPORT, replace(REPORT, **change)], NOW_MS)  # type: ignore[arg-type]
    assert str(refused.value) == f"reports[1]: {message}"
    assert (taken.take(NOW_MS), taken.reports) == ([], 0)


@pytest.mark.parametrize("second_ms", [SECOND_MS - 9_000, SECOND_MS + 2_000])
def test_the_oldest_and_the_newest_second_that_are_allowed_are_taken(second_ms: int) -> None:
    taken = Outcomes()
    taken.add([replace(REPORT, second_ms=second_ms)], NOW_MS)
    assert [at_ms for _, at_ms, _ in taken.take(NOW_MS)] == [second_ms]


@pytest.mark.parametrize("count", [0, 257])
def test_a_call_of_no_or_too_many_reports_is_refused(count: int) -> None:
    with pytest.raises(InvalidReport, match=f"reports has {count} entries; 1 to 256 are allowed"):
        Outcomes().add([REPORT] * count, NOW_MS)


def test_reports_of_one_action_and_second_are_merged_over_callers() -> None:
    taken = Outcomes()
    taken.add([REPORT], NOW_MS)
    taken.add([replace(REPORT, latencies=((575, 3),)), replace(REPORT, action="search")], NOW_MS)
    assert taken.reports == 3
    assert taken.take(NOW_MS) == [
        ("login", SECOND_MS, Merged(6, 2, 2, {460: 2, 575: 4})),
        ("search", SECOND_MS, Merged(3, 1, 1, {460: 2, 575: 1})),
    ]
    assert taken.take(NOW_MS) == []


def test_actions_are_bounded_and_what_has_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MOST_OPEN", 2)
    taken = Outcomes()
    taken.add([replace(REPORT, action=action) for action in ("a", "b", "c", "a")], NOW_MS)
    assert taken.dropped == 1
    assert [(action, merged.count) for action, _, merged in taken.take(NOW_MS)] == [("a", 6), ("b", 3)]


def test_seconds_that_waited_too_long_for_kafka_are_dropped_and_counted() -> None:
    taken = Outcomes()
    taken.add([REPORT, REPORT, replace(REPORT, second_ms=SECOND_MS + 1000)], NOW_MS)
    assert [at_ms for _, at_ms, _ in taken.take(SECOND_MS + 20_500)] == [SECOND_MS + 1000]
    assert taken.dropped == 2
