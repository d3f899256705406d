"""What is admitted, by action."""

from __future__ import annotations

import pytest

from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.events import loads
from enforcer.events.loads import Load, Loads
from tests.unit.enforcer.builders import POLICIES_IN_FORCE, make_check

IP = {"ip": "203.0.113.7"}
PLANNER = Planner(POLICIES_IN_FORCE)


def make_plan(user: str = "alice", action: str = "login", cost: int = 1, attributes: dict[str, str] | None = None) -> Plan:
    return PLANNER.plan(make_check(user, action, cost, attributes))


def test_active_subjects_bring_the_refill_of_the_narrowest_limit() -> None:
    counted = Loads()
    for user, cost in (("a", 1), ("a", 2), ("b", 1)):
        counted.add(make_plan(user, cost=cost, attributes=IP))
    assert counted.take() == [Load("login", 4, 2, 2 * 83)]  # 5 a minute is 83 thousandths a second
    assert counted.take() == []


def test_a_limit_in_shadow_mode_is_no_limit() -> None:
    counted = Loads()
    for user in ("a", "b"):
        counted.add(make_plan(user, "shared"))
    assert counted.take() == [Load("shared", 2, 1, 100_000)]  # one bucket for everybody


def test_an_action_without_limits_has_no_active_subjects() -> None:
    counted = Loads()
    counted.add(make_plan(action="free", cost=7))
    assert counted.take() == [Load("free", 7, 0, 0)]


def test_checks_of_one_action_with_and_without_an_address_are_one_load() -> None:
    counted = Loads()
    counted.add(make_plan("a"))
    counted.add(make_plan("b", attributes=IP))
    assert counted.take() == [Load("login", 2, 2, 2 * 83)]


def test_buckets_and_actions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "MOST_TEMPLATES", 1)
    counted = Loads(_room=2)
    for user in ("a", "b", "c"):
        counted.add(make_plan(user))
    counted.add(make_plan(action="free"))
    assert counted.take() == [Load("login", 3, 2, 2 * 83)]
