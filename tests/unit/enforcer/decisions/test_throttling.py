"""Which checks an action's throttle lowers, and which it refuses."""

from __future__ import annotations

import msgspec

from enforcer.decisions.throttling import CLOSED, Throttling, find_factor, is_probe
from tests.unit.enforcer.events.test_loads import make_plan

OPEN = Throttling(20, 50, 1_000)


def test_action_that_is_not_throttled_is_not_lowered() -> None:
    assert find_factor(make_plan(action="search"), {"login": Throttling(500, CLOSED, 0)}) == 1000
    assert find_factor(make_plan(action="login"), {"login": Throttling(500, CLOSED, 0)}) == 500


def test_open_action_refuses_all_but_probes() -> None:
    factors = [find_factor(make_plan(f"user{number}"), {"login": OPEN}) for number in range(4000)]
    assert set(factors) == {20, -20}
    assert 0.035 < factors.count(20) / len(factors) < 0.065


def test_reads_and_refunds_pass_an_open_action() -> None:
    nobody = OPEN._replace(probes=0)
    plans = [make_plan(), make_plan(cost=0)]
    refund = msgspec.structs.replace(plans[0], check=msgspec.structs.replace(plans[0].check, cost=-1))
    assert [find_factor(plan, {"login": nobody}) for plan in (*plans, refund)] == [-20, 20, 20]


def test_probes_are_the_same_everywhere_within_a_tick_and_others_in_the_next() -> None:
    names = [(f"user=u{number}",) for number in range(2000)]
    chosen = [{name for name in names if is_probe(name, OPEN._replace(tick_ms=tick_ms))} for tick_ms in (1000, 1000, 2000)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
