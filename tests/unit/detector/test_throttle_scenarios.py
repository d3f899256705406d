"""The control law in virtual time, against a backend that queues: bands that a change of the law has to keep."""

from __future__ import annotations

import pytest

from bench.overload_model import (
    BEFORE_S,
    DELAYS_S,
    HEADROOMS,
    SCENARIOS,
    SLO_S,
    STEPS,
    TERMS,
    TIMEOUT_S,
    Backend,
    Ratchet,
    Scenario,
    World,
    judge,
    play,
    score,
)
from detector.throttle import State, Tick, advance

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
REGIMES = [(headroom, delay_s) for headroom in HEADROOMS for delay_s in DELAYS_S]

MOST_S = {
    # violated, lost, recovery: at 1 s and at 3 s of delay
    "capacity halves and returns": ((3, 10, 10), (12, 24, 10)),
    "demand grows to twice": ((1, 15, 5), (50, 90, 180)),
    "load did not cause the latency": ((4, 6, 12), (4, 6, 12)),
    "everything times out": ((4, 20, 25), (8, 24, 28)),
    "fast failures": ((4, 31, 25), (8, 34, 28)),
    "slower by and by, within the SLO": ((0, 0, 0), (0, 0, 0)),
    "poisoned baseline": ((12, 15, 8), (16, 33, 18)),
    "four seconds unseen": ((3, 13, 14), (12, 26, 12)),
}


@pytest.mark.parametrize(("headroom", "delay_s"), REGIMES)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario_stays_in_its_band(scenario: Scenario, headroom: float, delay_s: int) -> None:
    found = judge(scenario, "Ratchet", headroom=headroom, delay_s=delay_s)
    violated_s, lost_s, recovered_s = MOST_S[scenario.name][DELAYS_S.index(delay_s)]
    assert found.violated_s <= violated_s, found
    assert found.lost_s <= lost_s, found
    assert found.recovered_s <= recovered_s, found


@pytest.mark.parametrize(("headroom", "delay_s"), REGIMES)
def test_sum_is_below_that_of_the_other_laws_in_every_regime(headroom: float, delay_s: int) -> None:
    sums = {
        law: sum(judge(scenario, law, headroom=headroom, delay_s=delay_s).total_s for scenario in SCENARIOS)
        for law in ("Ratchet", "AIMD", "gradient", "none")
    }
    assert sums["Ratchet"] == min(sums.values()), sums


@pytest.mark.parametrize("headroom", HEADROOMS)
def test_two_controllers_that_write_in_turn_do_no_worse_than_half_as_well(headroom: float) -> None:
    scenario = BY_NAME["capacity halves and returns"]
    alone = score(list(play(scenario, Ratchet(), headroom=headroom, delay_s=1)), scenario.recovers_s)
    both = score(list(play(scenario, Ratchet(), headroom=headroom, delay_s=1, others=(Ratchet(),))), scenario.recovers_s)
    assert both.total_s <= 2 * alone.total_s, (both, alone)


def test_without_overload_nothing_is_ever_lowered() -> None:
    calm = Scenario("calm", 600, lambda at_s: World(demand=400 + at_s % 400))
    assert all(second.factor == 1 for second in play(calm, Ratchet(), headroom=3, delay_s=1))


def test_where_nobody_reports_nothing_is_lowered() -> None:
    blind = Scenario("blind", 120, lambda at_s: World(capacity=1000 if at_s < BEFORE_S else 100, is_seen=False))
    assert all(second.factor == 1 for second in play(blind, Ratchet(), headroom=3, delay_s=1))


def test_dead_backend_is_asked_by_probes_alone() -> None:
    seconds = list(play(BY_NAME["everything times out"], Ratchet(), headroom=10, delay_s=1))
    late = [second.admitted for second in seconds if BEFORE_S + 15 <= second.at_s < BEFORE_S + 30]
    assert 0 < max(late) <= 0.05 * World().demand


def test_model_without_a_throttle_collapses() -> None:
    found = judge(BY_NAME["capacity halves and returns"], "none", headroom=10, delay_s=1)
    assert found.violated_s > 60
    assert SLO_S == 0.2


def test_of_two_actions_that_share_a_backend_the_one_of_lower_priority_is_cut_and_the_other_is_not() -> None:
    backend = Backend()
    states, factors = {1: State(), 10: State()}, {1: 1.0, 10: 1.0}
    cut = dict.fromkeys(states, 0)
    for at_s in range(BEFORE_S + 120):
        demand = 300.0 if at_s < BEFORE_S else 550.0 + at_s / 100
        admitted = {priority: min(demand, 3000.0 * factor) for priority, factor in factors.items()}
        latencies = sorted(backend.serve(sum(admitted.values()) / STEPS, World()) for _ in range(STEPS))
        p90_us = min(latencies[int(0.9 * STEPS)], TIMEOUT_S) * 1e6
        factors = {priority: state.factor for priority, state in states.items()}
        for priority, state in states.items():
            passed = round(admitted[priority])
            tick = Tick((at_s + 1) * 1000, passed, 0, p90_us, passed, 3_000_000, priority)
            states[priority] = advance(state, tick, TERMS)
            if at_s >= BEFORE_S + 20:
                cut[priority] += max(0, round(demand) - passed)
    assert cut[10] < cut[1] / 3, cut
