"""A short form of ``python -m examples.overload``: the whole system, with a backend that a burst pushes over its edge."""

from __future__ import annotations

import pytest

from examples.overload import BURST_S, CALM_S, SLO_S, describe, run_course

pytestmark = pytest.mark.timeout(240)


async def test_backend_that_is_throttled_comes_back_after_a_burst_and_stays_up() -> None:
    course = await run_course(seconds=40, is_throttled=True)
    slowest_ms = max(course.list_p90_ms()[CALM_S : CALM_S + BURST_S])
    assert slowest_ms > SLO_S * 1000, "the burst did not push it over its edge"
    assert sum(course.refused) > 0, "nothing was throttled"
    assert course.find_recovery_s() is not None, describe("with Ratchet", course)
