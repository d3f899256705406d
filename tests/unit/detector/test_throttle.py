"""The control law, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.throttle import CLOSED, FEWEST_PROBES, MOST_PROBES, State, Terms, Tick, advance, describe, find_setpoint_us

TERMS = Terms(lowest_us=50_000, highest_us=1_000_000, most_errors=0.1, floor=0.02)
USUAL = State(baseline_us=100_000)
"""Its setpoint is 200 ms."""


def make_tick(p90_ms: float = 100, *, at_s: int = 100, count: int = 100, errors: int = 0, used: float = 0.1) -> Tick:
    return Tick(at_s * 1000, count, errors, p90_ms * 1000, round(used * 1000), 1_000_000)


def feed(state: State, *ticks: Tick) -> State:
    for tick in ticks:
        state = advance(state, tick, TERMS)
    return state


def test_first_step_goes_to_the_used_share_of_the_limits() -> None:
    assert feed(USUAL, make_tick(400, used=0.1)).factor == pytest.approx(0.1 * 0.5**0.5)


def test_a_step_is_at_most_a_half() -> None:
    assert feed(USUAL, make_tick(60_000, used=0.1)).factor == pytest.approx(0.05)


def test_slight_overload_has_to_show_twice() -> None:
    assert feed(USUAL, make_tick(250)).factor == 1
    assert feed(USUAL, make_tick(250), make_tick(250, at_s=101)).factor < 0.1
    assert feed(USUAL, make_tick(250), make_tick(100, at_s=101), make_tick(250, at_s=102)).factor == 1


def test_nothing_more_is_lowered_until_the_effect_is_seen() -> None:
    lowered = feed(USUAL, make_tick(800, used=0.1))
    still_used = [make_tick(800, at_s=100 + n, used=0.1) for n in range(1, 6)]
    assert feed(lowered, *still_used).factor == lowered.factor
    assert feed(lowered, *still_used, make_tick(800, at_s=106, used=0.1)).factor < lowered.factor
    seen = make_tick(800, used=lowered.factor)
    assert feed(lowered, replace(seen, at_ms=101_000)).factor == lowered.factor
    assert feed(lowered, replace(seen, at_ms=102_000)).factor == pytest.approx(lowered.factor / 2)


def test_dead_band_holds() -> None:
    lowered = feed(USUAL, make_tick(800))
    assert feed(lowered, *[make_tick(180, at_s=103 + n, used=0.05) for n in range(20)]).factor == lowered.factor


def test_calm_raises_fast_to_where_overload_was_met_and_slowly_beyond() -> None:
    lowered = feed(USUAL, make_tick(60_000, used=0.4))
    first = feed(lowered, make_tick(at_s=102, used=0.2))
    assert first.factor == pytest.approx(0.2 * 1.8)
    second = feed(first, make_tick(at_s=103, used=0.36))
    third = feed(second, make_tick(at_s=104, used=second.factor))
    assert third.factor / second.factor < 1.1


def test_fast_failures_are_overload() -> None:
    assert feed(USUAL, make_tick(5, errors=60)).factor < 0.1
    assert feed(USUAL, make_tick(5, errors=10)).factor == 1


def test_few_samples_say_nothing() -> None:
    assert feed(USUAL, make_tick(60_000, count=4)).factor == 1


def test_silence_holds_and_then_counts_as_calm() -> None:
    lowered = feed(USUAL, make_tick(800))
    silence = [Tick(101_000 + n * 1000) for n in range(30)]
    assert feed(lowered, *silence[:5]).factor == lowered.factor
    assert feed(lowered, *silence).is_resting


def test_action_opens_below_the_floor_and_not_before() -> None:
    at_floor = replace(USUAL, factor=TERMS.floor, steps=3)
    almost = feed(replace(at_floor, factor=0.021), make_tick(800, used=0.021))
    assert (almost.factor, almost.is_open) == (TERMS.floor, False)
    opened = feed(at_floor, make_tick(800, used=0.02))
    assert (opened.probes, opened.factor) == (FEWEST_PROBES, TERMS.floor)


def test_probes_that_go_well_close_it_at_the_floor() -> None:
    state, shares = replace(USUAL, factor=TERMS.floor, probes=FEWEST_PROBES), []
    for at_s in range(100, 105):
        state = feed(state, make_tick(at_s=at_s))
        shares.append(state.probes)
    assert shares == [20, 30, 40, 50, CLOSED]
    assert state.factor == TERMS.floor


def test_a_bad_probe_begins_anew_and_a_lost_one_does_not() -> None:
    state = replace(USUAL, factor=TERMS.floor, probes=40)
    assert feed(state, make_tick(800)).probes == FEWEST_PROBES
    assert feed(state, Tick(100_000)).probes == 50
    lost = feed(state, *[Tick(100_000 + n) for n in range(50)])
    assert (lost.probes, lost.is_open) == (MOST_PROBES, True), "silence alone never closes it"


def test_baseline_is_frozen_by_overload_and_while_anything_is_lowered() -> None:
    assert feed(USUAL, make_tick(900)).baseline_us == USUAL.baseline_us
    lowered = feed(USUAL, make_tick(800))
    assert feed(lowered, make_tick(10, at_s=103)).baseline_us == USUAL.baseline_us
    assert feed(USUAL, make_tick(160)).baseline_us == pytest.approx(101_000)
    assert feed(USUAL, make_tick(85)).baseline_us == pytest.approx(99_000)


@pytest.mark.parametrize(("baseline_us", "setpoint_us"), [(0, 1_000_000), (1_000, 50_000), (100_000, 200_000), (10**7, 10**6)])
def test_setpoint_lies_between_its_bounds(baseline_us: float, setpoint_us: float) -> None:
    assert find_setpoint_us(State(baseline_us=baseline_us), TERMS) == setpoint_us


def test_lower_priorities_give_way_first() -> None:
    setpoints = [find_setpoint_us(USUAL, TERMS, priority) for priority in range(1, 11)]
    assert setpoints == sorted(setpoints)
    tick = make_tick(190)
    low, high = (
        feed(USUAL, *[replace(tick, priority=priority, at_ms=100_000 + n * 1000) for n in range(3)]) for priority in (1, 10)
    )
    assert low.factor < 1
    assert high.factor == 1


def test_a_higher_priority_waits_a_tick_longer_for_each_step() -> None:
    waited = []
    for priority in (5, 6, 10):
        state, ticks = USUAL, 0
        while state.factor == 1:
            state = feed(state, replace(make_tick(800, at_s=100 + ticks), priority=priority))
            ticks += 1
        waited.append(ticks)
    assert waited == [1, 2, 6]


def test_unknown_share_of_the_limits_counts_as_all_of_them() -> None:
    assert Tick(0, admitted_tokens=5).used_share == 1


def test_reason_names_the_figures() -> None:
    assert describe(USUAL, make_tick(800, errors=7), TERMS) == (
        "p90 800 ms against a setpoint of 200 ms, errors 7.0% of 100 against 10.0%, 10.0% of the limits in use"
    )
    assert describe(USUAL, Tick(0), TERMS) == "0 requests ended, too few to judge by; 1 such ticks in a row"


ticks = st.builds(
    Tick,
    at_ms=st.just(0),
    count=st.integers(0, 10_000),
    p90_us=st.floats(0, 1e12),
    admitted_tokens=st.integers(0, 10**9),
    refill_milli_per_s=st.integers(0, 10**12),
    priority=st.integers(1, 10),
)


@settings(deadline=None)
@given(st.lists(st.tuples(ticks, st.floats(0, 1), st.integers(1, 100)), max_size=40))
def test_whatever_is_seen_the_factor_is_in_bounds_and_no_step_is_above_its_largest(
    seen: list[tuple[Tick, float, int]],
) -> None:
    state, at_ms = State(), 0
    for tick, errors, elapsed_s in seen:
        at_ms += elapsed_s * 1000
        before, state = state, advance(state, replace(tick, at_ms=at_ms, errors=round(tick.count * errors)), TERMS)
        assert TERMS.floor <= state.factor <= 1
        assert state.probes == CLOSED or FEWEST_PROBES <= state.probes <= MOST_PROBES
        assert state.factor <= before.factor * 1.8 + 1e-9
        assert 1 <= state.per_mille <= 1000
