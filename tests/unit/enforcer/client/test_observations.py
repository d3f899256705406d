"""Counts per action and second."""

from __future__ import annotations

import math

import pytest

from enforcer.client import observations
from enforcer.client.observations import Observations
from enforcer.events.outcomes import Report, validate_reports
from topics.sketch import estimate_us, find_bucket


def observe(
    counted: Observations, action: str = "login", latency_s: float = 0.01, now_s: float = 1000.5, **flags: bool
) -> None:
    counted.add(action, latency_s, now_s, **{"is_error": False, "is_timeout": False, **flags})


def test_requests_are_counted_by_action_and_second() -> None:
    counted = Observations()
    observe(counted)
    observe(counted, is_error=True)
    observe(counted, latency_s=2.0, is_timeout=True)
    observe(counted, now_s=1001.0)
    observe(counted, "search")
    reports = {(report.action, report.second_ms): report for report in counted.take()}
    assert set(reports) == {("login", 1_000_000), ("login", 1_001_000), ("search", 1_000_000)}
    first = reports["login", 1_000_000]
    assert (first.count, first.errors, first.timeouts) == (3, 1, 1)
    assert {bucket.index: bucket.count for bucket in first.latencies} == {find_bucket(10_000): 2, find_bucket(2_000_000): 1}
    assert counted.take() == []


def test_what_is_reported_is_what_an_enforcer_takes_and_keeps_quantiles_to_one_per_cent() -> None:
    counted = Observations()
    for number in range(1, 1001):
        observe(counted, latency_s=number / 1000)
    (report,) = counted.take()
    latencies = tuple((bucket.index, bucket.count) for bucket in report.latencies)
    validate_reports(
        [Report(report.action, report.second_ms, report.count, report.errors, report.timeouts, latencies)], now_ms=1_000_900
    )
    assert estimate_us(dict(latencies), 0.9) == pytest.approx(900_000, rel=0.0101)


@pytest.mark.parametrize("latency_s", [-1.0, math.nan, math.inf])
def test_a_latency_that_is_none_is_dropped(latency_s: float) -> None:
    counted = Observations()
    observe(counted, latency_s=latency_s)
    assert (counted.take(), counted.dropped) == ([], 1)


def test_actions_are_bounded_and_bad_ones_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "MOST_OPEN", 2)
    counted = Observations()
    for action in ("a", "not an action", "b", "c", "a"):
        observe(counted, action)
    assert counted.dropped == 2
    assert [(report.action, report.count) for report in counted.take()] == [("a", 2), ("b", 1)]
