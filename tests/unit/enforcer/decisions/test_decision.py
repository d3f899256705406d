"""From readings to answers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.decision import Ban, Reading, Warned, decide, find_first, refuse_incomplete
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import UNLOWERED, Status, take
from enforcer.service import write_response
from tests.unit.enforcer.builders import EVERYTHING, make_check, make_plan, make_policies

NOW_US = 1_700_000_000_000_000
TOKEN = 60_000_000
BAN = Ban(NOW_US // 1000 + 61_500, 3, "brute_force", "v1", "user=alice", ("login",))


def test_allowed_check_tells_what_is_left_of_each_limit() -> None:
    plan = make_plan(attributes={"ip": "203.0.113.7"})
    decision = decide(plan, Reading(NOW_US, Status.ALLOW, levels=(29 * TOKEN, 3 * TOKEN + TOKEN // 2)))
    assert (decision.outcome, decision.reason, decision.decided_at_ms) == ("allow", "ok", NOW_US // 1000)
    assert (decision.retry_after_ms, decision.remaining, decision.is_shadow) == (0, 3, False)
    wide, narrow = decision.limits
    assert (wide.capacity, wide.remaining, wide.retry_after_ms, wide.reset_after_ms) == (30, 29, 0, 2000)
    assert (narrow.capacity, narrow.remaining, narrow.retry_after_ms, narrow.reset_after_ms) == (5, 3, 0, 18_000)


def test_retry_after_is_the_longest_wait_of_those_that_refused() -> None:
    plan = make_plan(attributes={"ip": "203.0.113.7"}, cost=2)
    decision = decide(plan, Reading(NOW_US, Status.LIMIT, refused=0b11, refused_at_1=0b10, levels=(TOKEN, TOKEN // 2)))
    assert (decision.outcome, decision.reason, decision.refused_at_1) == ("deny", "limit", 0b10)
    assert [status.retry_after_ms for status in decision.limits] == [2000, 18_000]
    assert decision.retry_after_ms == 18_000


@given(cost=st.integers(1, 5), spent=st.integers(1, 5), later_us=st.integers(0, TOKEN))
def test_retry_after_suffices_and_a_millisecond_less_does_not(cost: int, spent: int, later_us: int) -> None:
    plan = make_plan(cost=cost)
    terms = plan.limits[0].terms
    buckets, _ = take([None], [terms], [False], [spent], UNLOWERED, NOW_US)
    now_us = NOW_US + later_us
    _, taken = take(buckets, [terms], [False], [cost], UNLOWERED, now_us)
    decision = decide(plan, Reading(now_us, taken.status, refused=taken.refused, levels=taken.levels))
    if taken.status == Status.ALLOW:
        assert decision.retry_after_ms == 0
        return
    after_us = now_us + decision.retry_after_ms * 1000
    assert take(buckets, [terms], [False], [cost], UNLOWERED, after_us)[1].status == Status.ALLOW
    assert take(buckets, [terms], [False], [cost], UNLOWERED, after_us - 1000)[1].status == Status.LIMIT


def test_throttled_refusal_feeds_no_ban_and_tells_the_lowered_capacity() -> None:
    decision = decide(make_plan(), Reading(NOW_US, Status.THROTTLED, factor=400, refused=1, levels=(0,)))
    assert (decision.outcome, decision.reason, decision.factor, decision.refused_at_1) == ("deny", "throttled", 400, 0)
    (status,) = decision.limits
    assert (status.capacity, status.remaining, status.retry_after_ms, status.reset_after_ms) == (2, 0, 30_000, 60_000)


def test_ban_ends_when_it_ends() -> None:
    decision = decide(make_plan(), Reading(NOW_US, Status.BAN, ban=BAN))
    assert (decision.outcome, decision.reason, decision.ban, decision.limits) == ("ban", "banned", BAN, ())
    assert decision.retry_after_ms == 61_500
    late = decide(make_plan(), Reading(BAN.until_ms * 1000 + 5_000, Status.BAN, ban=BAN, is_cached=True))
    assert (late.retry_after_ms, late.is_cached) == (0, True)


def test_warning_degraded_and_cached_are_passed_on() -> None:
    warned = Warned(NOW_US // 1000 + 5, "brute_force", "v2", "user=alice")
    reading = Reading(NOW_US, Status.ALLOW, levels=(0,), warned=warned, is_degraded=True, is_cached=True)
    decision = decide(make_plan(), reading)
    assert (decision.warned, decision.is_degraded, decision.is_cached) == (warned, True, True)


@pytest.mark.parametrize(("refused", "is_shadow"), [(0b00, False), (0b10, True)])
def test_shadow_limit_is_told_and_changes_nothing_else(refused: int, is_shadow: bool) -> None:
    plan = make_plan(action="shared")
    decision = decide(plan, Reading(NOW_US, Status.ALLOW, refused=refused, levels=(40_000_000, 0)))
    assert (decision.outcome, decision.is_shadow, decision.retry_after_ms, decision.remaining) == ("allow", is_shadow, 0, 40)
    assert decision.limits[1].is_refused == is_shadow


def test_limit_of_which_nothing_is_known_has_no_status() -> None:
    plan = make_plan(attributes={"ip": "203.0.113.7"})
    decision = decide(plan, Reading(NOW_US, Status.LIMIT, refused=0b10, refused_at_1=0b10, levels=(-1, 0), is_cached=True))
    assert [(status.position, status.limit.name) for status in decision.limits] == [(1, "per_user")]
    assert (decision.retry_after_ms, decision.remaining) == (12_000, 0)


def test_policy_without_limits_allows_with_nothing_left_to_tell() -> None:
    decision = decide(make_plan(action="free"), Reading(NOW_US, Status.ALLOW))
    assert (decision.outcome, decision.limits, decision.remaining) == ("allow", (), 0)


def test_wait_for_what_a_shadow_limit_can_never_hold_fits_the_answer() -> None:
    policies = make_policies(
        "version: 1\nsubjects: [user]\npolicies:\n  - name: d\n    match: { action: '*' }\n    limits:\n"
        "      - { name: trial, per: [user], capacity: 1, refill: 1/1d, mode: shadow }\n"
    )
    plan = make_plan(cost=2**63 - 1, policies=policies)
    decision = decide(plan, Reading(NOW_US, Status.ALLOW, refused=0b1, levels=(0,)))
    assert write_response(plan, decision).limits[0].retry_after_ms > 2**50
    assert decision.is_shadow


@pytest.mark.parametrize("action", ["login", "shared", "free", "other"])
def test_who_is_far_below_the_limits_is_answered_as_everybody_else(action: str) -> None:
    plan = make_plan(action=action, attributes={"ip": "203.0.113.7"})
    first = find_first(plan.template)
    levels = first.levels or ()
    assert len(levels) == len(plan.limits)
    short = decide(plan, Reading(NOW_US + 7, Status.ALLOW, levels=levels))
    long = decide(plan, Reading(NOW_US + 7, Status.ALLOW, levels=levels, is_degraded=True))
    assert short == msgspec.structs.replace(long, is_degraded=False)
    assert not plan.limits or short.limits is first.limits


def test_refusal_at_the_same_level_is_a_refusal() -> None:
    policies = make_policies(
        'version: 1\nsubjects: [user]\npolicies:\n  - { name: one, match: { action: "*" }, limits:'
        " [{ name: once, per: [user], capacity: 1, refill: 1/1m }] }\n"
    )
    plan = Planner(policies).plan(make_check())
    assert decide(plan, Reading(NOW_US, Status.LIMIT, refused=1, refused_at_1=1, levels=(0,))).outcome == "deny"
    assert decide(plan, Reading(NOW_US, Status.ALLOW, levels=(0,))).outcome == "allow"


def test_answer_that_depends_on_the_time_is_never_shared() -> None:
    policies = make_policies(
        'version: 1\nsubjects: [user]\npolicies:\n  - { name: rare, match: { action: "*" }, limits:'
        " [{ name: yearly, per: [user], capacity: 280, refill: 1/365d }] }\n"
    )
    template = Planner(policies).plan(make_check()).template
    assert template.limits[0].terms.tick_us == 1000
    assert find_first(template).levels is None


def test_check_that_lacks_a_required_subject_is_denied_by_the_limits_that_require_it_and_blames_nobody() -> None:
    planner = Planner(make_policies(EVERYTHING))
    plan = planner.build(make_check(), ((("user", 0),),), ["user=alice"])
    assert [limit.label for limit in plan.limits] == ["login:per_ip"]
    decision = decide(plan, refuse_incomplete(plan, NOW_US))
    assert (decision.outcome, decision.reason, decision.decided_at_ms) == ("deny", "limit", NOW_US // 1000)
    assert (decision.refused, decision.refused_at_1, decision.limits, decision.is_shadow) == (0b1, 0, (), False)


def test_open_action_is_told_as_such_and_to_be_asked_again_in_a_second() -> None:
    plan = make_plan()
    levels = tuple(limit.terms.capacity_units for limit in plan.limits)
    decision = decide(plan, Reading(NOW_US, Status.OPEN, factor=20, levels=levels))
    assert (decision.outcome, decision.reason, decision.retry_after_ms) == ("deny", "open", 1000)
    assert decision.refused_at_1 == 0
