"""The gRPC service of ``ratchet.v1.Enforcer``: messages to checks, decisions to messages."""

from __future__ import annotations

import asyncio
import time

import grpc

from enforcer.calls.access import ANYBODY, Caller
from enforcer.calls.decider import Decider
from enforcer.calls.guard import current_caller
from enforcer.decisions.decision import Decision
from enforcer.decisions.layouts import Name, walk_fields
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.events.outcomes import InvalidReport, Report
from enforcer.limits.check import MOST_CHECKS_PER_BATCH, Check, InvalidCheck, validate_check
from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc

_OUTCOMES = {
    "allow": enforcer_pb2.OUTCOME_ALLOW,
    "deny": enforcer_pb2.OUTCOME_DENY,
    "ban": enforcer_pb2.OUTCOME_BAN,
}
_REASONS = {
    "ok": enforcer_pb2.REASON_OK,
    "limit": enforcer_pb2.REASON_LIMIT,
    "banned": enforcer_pb2.REASON_BANNED,
    "throttled": enforcer_pb2.REASON_THROTTLED,
    "open": enforcer_pb2.REASON_OPEN,
}

_USER_ID, _ATTRIBUTES, _CHECKS = 1, 4, 1
"""Numbers of fields: of a check, of a batch."""


class EnforcerService(enforcer_pb2_grpc.EnforcerServicer):
    """Answers checks. Plain grpcio code: it runs on either transport."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    async def Check(  # noqa: N802 gRPC's name
        self,
        request: enforcer_pb2.CheckRequest,
        context: grpc.aio.ServicerContext[enforcer_pb2.CheckRequest, enforcer_pb2.CheckResponse],
    ) -> enforcer_pb2.CheckResponse:
        """Decide one check; INVALID_ARGUMENT for content out of bounds."""
        try:
            plan = plan_for(current_caller(), self._decider.planner.plan(read_check(request)), self._decider.planner)
        except InvalidCheck as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return write_response(*await self._decider.decide(plan))

    async def CheckBatch(  # noqa: N802 gRPC's name
        self,
        request: enforcer_pb2.CheckBatchRequest,
        context: grpc.aio.ServicerContext[enforcer_pb2.CheckBatchRequest, enforcer_pb2.CheckBatchResponse],
    ) -> enforcer_pb2.CheckBatchResponse:
        """Decide up to 1,000 checks, or none: INVALID_ARGUMENT names the first bad one."""
        try:
            planner, caller = self._decider.planner, current_caller()
            plans = [plan_for(caller, plan, planner) for plan in read_batch(request, planner)]
        except InvalidCheck as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        decided = await asyncio.gather(*[self._decider.decide(plan) for plan in plans])
        return enforcer_pb2.CheckBatchResponse(results=[write_response(plan, decision) for plan, decision in decided])

    async def ReportOutcomes(  # noqa: N802 gRPC's name
        self,
        request: enforcer_pb2.ReportOutcomesRequest,
        context: grpc.aio.ServicerContext[enforcer_pb2.ReportOutcomesRequest, enforcer_pb2.ReportOutcomesResponse],
    ) -> enforcer_pb2.ReportOutcomesResponse:
        """Take how a backend fared, all of it or nothing: INVALID_ARGUMENT names the first bad report."""
        for report in request.reports:
            current_caller().permit_action(report.action)
        try:
            self._decider.emitter.outcomes.add(
                [_read_report(report) for report in request.reports], time.time_ns() // 1_000_000
            )
        except InvalidReport as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return enforcer_pb2.ReportOutcomesResponse()


def plan_for(caller: Caller, plan: Plan, planner: Planner) -> Plan:
    """Make a plan its caller's: insist that it may ask for it, and name it where the policies want to know who calls.

    Raises:
        PermissionDenied: It may not. Take nothing.
        InvalidCheck: The cost is above the capacity of a limit of the caller's own.
    """
    caller.permit(plan)
    return planner.plan(caller.sign(plan.check)) if planner.names_callers and caller is not ANYBODY else plan


def read_check(request: enforcer_pb2.CheckRequest) -> Check:
    """Read one message.

    Raises:
        InvalidCheck: Content out of bounds.
    """
    cost = request.cost if request.HasField("cost") else 1
    if not request.suppressed:
        return validate_check(request.user_id, request.action, cost, request.attributes)
    return validate_check(
        request.user_id, request.action, cost, request.attributes, request.suppressed, request.suppressed_limits
    )


def _read_report(message: enforcer_pb2.OutcomeReport) -> Report:
    latencies = tuple((bucket.index, bucket.count) for bucket in message.latencies)
    return Report(message.action, message.second_ms, message.count, message.errors, message.timeouts, latencies)


def read_batch(request: enforcer_pb2.CheckBatchRequest, planner: Planner) -> list[Plan]:
    """Plan every check of a batch.

    Raises:
        InvalidCheck: One of them is out of bounds, or there are too many or none. The message names the first.
    """
    checks = request.checks
    if not 1 <= len(checks) <= MOST_CHECKS_PER_BATCH:
        raise InvalidCheck(f"checks has {len(checks)} entries; 1 to {MOST_CHECKS_PER_BATCH} are allowed")
    plans: list[Plan] = []
    try:
        plans.extend(planner.plan(read_check(check)) for check in checks)
    except InvalidCheck as error:
        raise InvalidCheck(f"checks[{len(plans)}]: {error}") from error
    return plans


def plan_check(payload: bytes, planner: Planner) -> Plan:
    """Plan one ``CheckRequest`` from its bytes: parsed only where no earlier one was like it.

    Raises:
        InvalidCheck: Content out of bounds.
        google.protobuf.message.DecodeError: These bytes are no such message.
    """
    plan = planner.checks.plan(payload)
    if plan is None or (planner.overrides and planner.is_overridden(plan)):
        plan = planner.plan(read_check(enforcer_pb2.CheckRequest.FromString(payload)))
        planner.checks.learn(payload, _find_values(payload), plan)
    return plan


def plan_batch(payload: bytes, planner: Planner) -> list[Plan]:
    """Plan every check of a ``CheckBatchRequest`` from its bytes.

    Raises:
        InvalidCheck: One of them is out of bounds, or there are too many or none. The message names the first.
        google.protobuf.message.DecodeError: These bytes are no such message.
    """
    fields = list(walk_fields(payload, 0, len(payload)))
    if not 1 <= len(fields) <= MOST_CHECKS_PER_BATCH or any(number != _CHECKS for number, _, _ in fields):
        return read_batch(enforcer_pb2.CheckBatchRequest.FromString(payload), planner)
    plans: list[Plan] = []
    try:
        for _, start, end in fields:
            plans.append(plan_check(payload[start:end], planner))
    except InvalidCheck as error:
        raise InvalidCheck(f"checks[{len(plans)}]: {error}") from error
    return plans


def _find_values(payload: bytes) -> list[Name] | None:
    """Find the values of a check that parses; None where an attribute has not just a key and a value."""
    names: list[Name] = []
    for field, start, end in walk_fields(payload, 0, len(payload)):
        if field == _USER_ID:
            names.append(("user", start, end))
        elif field == _ATTRIBUTES:
            key, value = (*walk_fields(payload, start, end), None, None)[:2]
            if key is None or value is None or (key[0], value[0]) != (1, 2) or value[2] != end:
                return None
            names.append((payload[key[1] : key[2]].decode(), value[1], value[2]))
    return names


def write_response(plan: Plan, decision: Decision) -> enforcer_pb2.CheckResponse:
    """Write one answer."""
    ban, warned = decision.ban, decision.warned
    response = enforcer_pb2.CheckResponse(
        outcome=_OUTCOMES[decision.outcome],
        reason=_REASONS[decision.reason],
        policy=plan.template.policy.name,
        policy_version=plan.template.version,
        limits=[
            enforcer_pb2.LimitStatus(
                policy=status.limit.policy,
                name=status.limit.name,
                capacity=status.capacity,
                remaining=status.remaining,
                retry_after_ms=status.retry_after_ms,
                reset_after_ms=status.reset_after_ms,
                refused=status.is_refused,
                shadow=status.limit.is_shadow,
            )
            for status in decision.limits
        ],
        retry_after_ms=decision.retry_after_ms,
        shadow=decision.is_shadow,
        degraded=decision.is_degraded,
        cached=decision.is_cached,
        factor_per_mille=decision.factor,
    )
    if ban is not None:
        response.ban.CopyFrom(
            enforcer_pb2.Ban(
                until_ms=ban.until_ms,
                scope=ban.scope,
                level=ban.level,
                rule=ban.rule,
                verdict_id=ban.verdict_id,
                subject=ban.subject,
            )
        )
    if warned is not None:
        response.warning.CopyFrom(
            enforcer_pb2.Warning(
                until_ms=warned.until_ms, rule=warned.rule, verdict_id=warned.verdict_id, subject=warned.subject
            )
        )
    return response
