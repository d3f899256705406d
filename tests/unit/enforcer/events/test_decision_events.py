"""Events of decisions, byte for meaning what the published model says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.decision import Ban, Decision
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.events.decision_events import encode_event, key_event
from enforcer.limits.bucket import UNLOWERED
from tests.unit.enforcer.builders import ODD_IDS, POLICIES_IN_FORCE, make_check, make_plan
from topics.events import DecisionEvent

BAN = Ban(1_700_000_000_000, 3, "brute_force", "v1", "user=alice", ("login",))


@st.composite
def decisions(draw: st.DrawFn) -> tuple[Plan, Decision]:
    check = make_check(
        draw(st.sampled_from([*ODD_IDS, "alice", "a-b@c.d"])),
        draw(st.sampled_from(["login", "shared", "free", 'say"hi\\'])),
        draw(st.sampled_from([1, 1, 2])),
        draw(st.sampled_from([{}, {}, {"ip": "203.0.113.7"}, {"agent": "curl"}])),
        draw(st.sampled_from([0, 0, 3])),
    )
    plan = Planner(POLICIES_IN_FORCE).plan(check)
    outcome, reason, ban = draw(
        st.sampled_from([("allow", "ok", None), ("allow", "ok", None), ("deny", "limit", None), ("ban", "banned", BAN)])
    )
    decision = Decision(
        outcome,  # type: ignore[arg-type] # drawn together with its reason
        reason,  # type: ignore[arg-type]
        draw(st.integers(1, 2**45)),
        retry_after_ms=0 if outcome == "allow" else draw(st.sampled_from([0, 12])),
        remaining=draw(st.integers(0, 2**53)),
        factor=draw(st.sampled_from([UNLOWERED, UNLOWERED, 1])),
        ban=ban,
        refused=draw(st.sampled_from([0, 0, 1])) if plan.limits else 0,
        is_degraded=draw(st.booleans()),
        is_cached=draw(st.booleans()) and outcome != "allow",
    )
    return plan, decision


@given(decisions(), st.integers(1, 2**53))
def test_event_says_what_was_decided(decided: tuple[Plan, Decision], seq: int) -> None:
    plan, decision = decided
    refusing = [limit for i, limit in enumerate(plan.limits) if decision.refused >> i & 1]
    assert DecisionEvent.model_validate_json(encode_event("a/0/b", seq, plan, decision)) == DecisionEvent(
        source="a/0/b",
        seq=seq,
        decided_at_ms=decision.decided_at_ms,
        user_id=plan.check.user_id,
        action=plan.check.action,
        attributes=plan.check.attributes,
        policy=plan.template.policy.name,
        policy_version=plan.template.version,
        limits=tuple(limit.label for limit in refusing if not limit.is_shadow),
        shadow_limits=tuple(limit.label for limit in refusing if limit.is_shadow),
        outcome=decision.outcome,
        reason=decision.reason,
        degraded=decision.is_degraded,
        cached=decision.is_cached,
        suppressed=plan.check.suppressed,
        suppressed_limits=plan.check.suppressed_limits,
        cost=plan.check.cost,
        remaining=decision.remaining,
        retry_after_ms=decision.retry_after_ms,
        factor=decision.factor,
        ban_until_ms=decision.ban.until_ms if decision.ban else None,
        verdict_id=decision.ban.verdict_id if decision.ban else None,
    )


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_key_is_the_first_subject(user_id: str) -> None:
    plan = make_plan(user_id, attributes={"ip": "203.0.113.7"})
    assert key_event(plan) == plan.subjects[0].encode()
