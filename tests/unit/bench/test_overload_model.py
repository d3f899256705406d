from __future__ import annotations

import pytest

from bench.overload_model import BEFORE_S, TIMEOUT_S, Aimd, Gradient, Scenario, Unthrottled, World, play, score


def test_backend_below_its_capacity_answers_at_once() -> None:
    seconds = list(play(Scenario("", 60, lambda _: World()), Unthrottled(), headroom=3, delay_s=1))
    assert {second.p90_s for second in seconds} == {0.02}
    assert score(seconds, BEFORE_S).total_s == pytest.approx(0)


def test_queue_grows_until_everything_times_out_and_drains_after() -> None:
    scenario = Scenario("", 120, lambda at_s: World(demand=2000 if 40 <= at_s < 60 else 100))
    seconds = list(play(scenario, Unthrottled(), headroom=10, delay_s=1))
    assert seconds[59].p90_s == TIMEOUT_S
    assert seconds[59].good == 0
    assert seconds[-1].p90_s == 0.02


@pytest.mark.parametrize("law", [Aimd(), Gradient()])
def test_limits_bound_what_is_let_pass(law: Aimd | Gradient) -> None:
    seconds = list(play(Scenario("", 60, lambda _: World(demand=5000, capacity=500)), law, headroom=1.2, delay_s=1))
    assert all(second.admitted <= 960.001 for second in seconds)
    assert seconds[-1].factor < 1
