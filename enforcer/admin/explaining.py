"""Explain one subject: what is held against it, and what its next check would meet. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

import msgspec

from enforcer.admin.subject_store import SubjectStore
from enforcer.calls.decider import Decider
from enforcer.decisions.decision import Decision
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import UNLOWERED
from enforcer.limits.check import Check
from enforcer.limits.policy import Policies
from enforcer.reload.overrides import RunTimeOverride, Target, find_overrides
from enforcer.service import write_response
from lua.keys import name_attribute
from ratchet.v1 import admin_pb2, enforcer_pb2
from topics.abuse import decay_score
from topics.events import AbuseState, Ban

MOST_POLICIES = 100
"""Whose limits are looked at when no action is named."""

MOST_OVERRIDES = 1_000
"""Limits whose override is looked up."""


class BucketsUnread(Exception):  # noqa: N818 it says what is the case
    """Redis did not tell what is in the buckets, in time. Ask again."""


async def explain(
    decider: Decider, store: SubjectStore, subject: str, action: str, attributes: Mapping[str, str]
) -> admin_pb2.ExplainResponse:
    """Tell what is known of one subject.

    Args:
        decider: Reads the buckets, as for a check of cost 0.
        store: Knows what is held against the subject.
        subject: ``kind=value``.
        action: Whose policy is asked about; empty: the policies that have limits for such subjects, up to ``MOST_POLICIES``.
        attributes: Further facts about the check of that action.

    Raises:
        RedisAway: No answer. Ask again.
        BucketsUnread: The same.
        StateUnreadable: Something else lies under the subject's key.
    """
    planner = decider.planner
    state, now_ms = await store.read(subject)
    response = admin_pb2.ExplainResponse(subject=admin_pb2.Subject(name=subject), factor_per_mille=UNLOWERED, now_ms=now_ms)
    if state is not None:
        write_state(response, subject, state, now_ms)
    targets = list(islice(_list_targets(planner.policies, subject), MOST_OVERRIDES))
    response.overrides.extend(write_override(override) for override in await find_overrides(store.client, targets))
    if action:
        plan, decision = await _read_buckets(decider, plan_reading(planner, subject, action, attributes))
        policy = plan.template.policy
        response.policy, response.matched_by = policy.name, policy.matched_by
        response.factor_per_mille = decision.factor
        response.limits.extend(write_response(plan, decision).limits)
    else:
        plans = [plan_reading(planner, subject, stand_in, attributes) for stand_in in list_actions(planner.policies, subject)]
        decided = await asyncio.gather(*[_read_buckets(decider, plan) for plan in plans])
        response.limits.extend(_gather_limits(subject.partition("=")[0], decided))
    return response


def plan_reading(planner: Planner, subject: str, action: str, attributes: Mapping[str, str]) -> Plan:
    """Plan a check that takes nothing, of a subject that need not be a user."""
    policies = planner.policies
    kind = subject.partition("=")[0]
    subjects, others, descriptor = [subject], list[str](), [(kind, 0)]
    for kinds, names in ((policies.attribute_kinds, subjects), (policies.attributes, others)):
        for other in kinds:
            if other != kind and (value := attributes.get(other)):
                descriptor.append((other, len(subjects) + len(others)))
                names.append(name_attribute(other, value))
    return planner.build(Check("", action, 0, dict(attributes)), (tuple(descriptor),), subjects, others)


def list_actions(policies: Policies, subject: str) -> list[str]:
    """List an action for each policy that has limits for such subjects, up to ``MOST_POLICIES``; a glob stands for its own."""
    kind = subject.partition("=")[0]
    actions = (policy.action for policy in policies if any(kind in limit.per for limit in policy.limits))
    return list(dict.fromkeys(islice(actions, MOST_POLICIES)))


def _gather_limits(kind: str, decided: Iterable[tuple[Plan, Decision]]) -> Iterator[enforcer_pb2.LimitStatus]:
    """The limits for such subjects, each once; of a glob, not those that its actions have each for themselves."""
    known: set[str] = set()
    for plan, decision in decided:
        is_stand_in = "*" in plan.template.action
        for status, written in zip(decision.limits, write_response(plan, decision).limits, strict=True):
            limit = status.limit
            if kind in limit.per and limit.label not in known and not (is_stand_in and "action" in limit.per):
                known.add(limit.label)
                yield written


def _list_targets(policies: Policies, subject: str) -> Iterator[Target]:
    kind = subject.partition("=")[0]
    for policy in policies:
        for limit in policy.limits:
            if kind in limit.per:
                yield Target(subject, limit.policy, limit.name)


async def _read_buckets(decider: Decider, plan: Plan) -> tuple[Plan, Decision]:
    _, decision = await decider.decide(plan)
    if decision.ban is not None:
        # A banned subject's buckets are not looked at, so what they hold is read as if nobody was named.
        template = replace(plan.template, kinds=())
        plan = msgspec.structs.replace(plan, template=template, subjects=(), keys=plan.bucket_keys)
        _, decision = await decider.decide(plan)
    if decision.is_degraded:
        raise BucketsUnread("Redis did not tell what is in the buckets, in time; ask again")
    return plan, decision


def write_state(response: admin_pb2.ExplainResponse, subject: str, state: AbuseState, now_ms: int) -> None:
    """Write what is held against the subject at this time: what is over is left out."""
    response.bans.extend(write_ban(subject, ban) for ban in state.bans if ban.until_ms > now_ms)
    if state.warn_until_ms > now_ms:
        response.warning.CopyFrom(
            enforcer_pb2.Warning(
                until_ms=state.warn_until_ms, rule=state.warn_rule, verdict_id=state.warn_verdict, subject=subject
            )
        )
    response.score_milli = decay_score(state.score, now_ms - state.score_at_ms, state.half_life_ms)
    response.level = state.level
    response.rev, response.human_at_ms = state.rev, state.human_at_ms
    if state.factor_until_ms > now_ms:
        response.factor_per_mille = state.factor


def write_ban(subject: str, ban: Ban) -> enforcer_pb2.Ban:
    """Write one ban."""
    return enforcer_pb2.Ban(
        until_ms=ban.until_ms, scope=ban.scope, level=ban.level, rule=ban.rule, verdict_id=ban.verdict_id, subject=subject
    )


def write_override(override: RunTimeOverride) -> admin_pb2.Override:
    """Write one override."""
    return admin_pb2.Override(
        subject=admin_pb2.Subject(name=override.subject),
        policy=override.policy,
        limit=override.limit,
        capacity=override.capacity,
        refill=override.refill,
        until_ms=override.until_ms,
        reason=override.reason,
        actor=override.actor,
    )
