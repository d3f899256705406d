"""From a decision to its event in topic ``decisions``, as it stands there. Pure."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from enforcer.decisions.decision import Decision
from enforcer.decisions.plan import Plan, Template
from enforcer.limits.bucket import UNLOWERED
from topics.wire import DecisionEvent

_encode = msgspec.json.Encoder().encode


def key_event(plan: Plan) -> bytes:
    """Key of the event: the first subject, so that everything about one of them is in one partition, in order."""
    return plan.subjects[0].encode() if plan.subjects else b"global"


def encode_event(source: str, seq: int, plan: Plan, decision: Decision) -> bytes:
    """Write the event of one decision.

    Args:
        source: Who decided.
        seq: Number of the decision among those of its source.
        plan: What was asked.
        decision: What was answered.

    Returns:
        JSON of :class:`topics.events.DecisionEvent`.
    """
    check = plan.check
    if (
        decision.outcome == "allow"
        and check.cost == 1
        and not check.attributes
        and not check.suppressed
        and not decision.refused
        and not decision.is_degraded
        and not decision.is_reported
        and decision.factor == UNLOWERED
        # The name of a subject is plain text. Where it holds the id as it is, so may JSON.
        and plan.subjects == (f"user={check.user_id}",)
    ):
        return (
            f'{_begin_event(source)}{seq},"decided_at_ms":{decision.decided_at_ms},"user_id":"{check.user_id}"'
            f"{_describe_allowed(plan.template)}{decision.remaining}}}"
        ).encode()
    ban, template = decision.ban, plan.template
    limits, shadow_limits = _name_limits(template, decision.refused)
    return _encode(
        DecisionEvent(
            source,
            seq,
            decision.decided_at_ms,
            check.user_id,
            check.action,
            template.policy.name,
            template.version,
            decision.outcome,
            decision.reason,
            1,
            check.attributes,
            limits,
            shadow_limits,
            decision.is_degraded,
            decision.is_cached,
            check.suppressed,
            check.cost,
            decision.remaining,
            decision.retry_after_ms,
            decision.factor,
            None if ban is None else ban.until_ms,
            None if ban is None else ban.verdict_id,
            check.suppressed_limits,
            decision.is_reported,
        )
    )


@lru_cache(maxsize=16)
def _begin_event(source: str) -> str:
    return f'{{"type":"decision","source":{_encode(source).decode()},"seq":'


@lru_cache(maxsize=4096)
def _describe_allowed(template: Template) -> str:
    texts = {
        "action": template.action,
        "policy": template.policy.name,
        "policy_version": template.version,
        "outcome": "allow",
        "reason": "ok",
    }
    return f',{_encode(texts).decode()[1:-1]},"remaining":'


@lru_cache(maxsize=4096)
def _name_limits(template: Template, refused: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels of the limits that refused: those enforced, and those in shadow mode."""
    refusing = [limit for i, limit in enumerate(template.limits) if refused >> i & 1]
    return tuple(x.label for x in refusing if not x.is_shadow), tuple(x.label for x in refusing if x.is_shadow)
