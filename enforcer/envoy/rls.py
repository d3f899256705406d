"""Envoy's rate limit service, version 3: a drop-in for a server that Envoy already asks.

All descriptors of a request are one all-or-nothing check and one event. What a request asks for is read in ``rls_request``.
Source: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from enforcer.calls.access import ANYBODY
from enforcer.calls.decider import Decider
from enforcer.calls.guard import current_caller
from enforcer.decisions.decision import Decision, LimitStatus, Outcome
from enforcer.decisions.plan import Plan
from enforcer.envoy.rls_request import parse_request, plan_request, sign_request
from enforcer.limits.bucket import Terms
from enforcer.limits.policy import Limit
from ratchet.envoy import core_pb2, rls_pb2, rls_pb2_grpc

SERVICE = rls_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name

_LARGEST_UINT32 = 2**32 - 1
_OK, _OVER_LIMIT = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
_RateLimit = rls_pb2.RateLimitResponse.RateLimit
_UNITS_US = {
    86_400_000_000: _RateLimit.DAY,
    3_600_000_000: _RateLimit.HOUR,
    60_000_000: _RateLimit.MINUTE,
    1_000_000: _RateLimit.SECOND,
}


class RateLimitService(rls_pb2_grpc.RateLimitServiceServicer):
    """Answers Envoy. Plain grpcio code: it runs on either transport."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    async def ShouldRateLimit(  # noqa: N802 Envoy's name
        self,
        request: rls_pb2.RateLimitRequest,
        context: grpc.aio.ServicerContext[rls_pb2.RateLimitRequest, rls_pb2.RateLimitResponse],  # noqa: ARG002 gRPC's signature
    ) -> rls_pb2.RateLimitResponse:
        """Decide all descriptors of one request together."""
        planner, caller = self._decider.planner, current_caller()
        plan = plan_request(request, planner)
        caller.permit(plan)
        if planner.names_callers and caller is not ANYBODY:
            sign_request(request, caller)
            plan = plan_request(request, planner)
        return write_rls_response(*await self._decider.decide(plan))


def add_rate_limit_service(service: RateLimitService, server: grpc.aio.Server) -> None:
    """Register the service, in such a way that texts which are no UTF-8 do not fail the call."""
    handler = grpc.unary_unary_rpc_method_handler(
        service.ShouldRateLimit,
        request_deserializer=parse_request,
        response_serializer=rls_pb2.RateLimitResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ShouldRateLimit": handler}),))


def write_rls_response(plan: Plan, decision: Decision) -> rls_pb2.RateLimitResponse:
    """Write one answer: a status for each descriptor, in their order."""
    is_refused = decision.outcome != "allow"
    response = rls_pb2.RateLimitResponse(overall_code=_OVER_LIMIT if is_refused else _OK)
    by_position = {status.position: status for status in decision.limits}
    for place, positions in enumerate(plan.template.positions):
        statuses = [by_position[position] for position in positions if position in by_position]
        status = _write_status(statuses, is_refused=decision.outcome == "ban" or plan.template.is_incomplete)
        if place in plan.template.unlimited:
            status.limit_remaining = _LARGEST_UINT32
        response.statuses.append(status)
    if is_refused:
        wait_s = -(-decision.retry_after_ms // 1000)
        rule = "" if decision.ban is None else decision.ban.rule
        headers = list_headers(decision.outcome, wait_s, rule)
        response.response_headers_to_add.extend(core_pb2.HeaderValue(key=key, value=value) for key, value in headers)
    metadata = describe(decision)
    if metadata:
        response.dynamic_metadata.update(metadata)
    return response


def describe(decision: Decision) -> dict[str, Any]:
    """What Envoy can log and route by, as dynamic metadata: what an answer's other fields do not say."""
    metadata: dict[str, Any] = {}
    if decision.is_degraded:
        metadata["degraded"] = True
    if decision.is_shadow:
        metadata["shadow"] = True
    given: dict[str, Any] = {}
    for status in decision.limits:
        told = status.limit.told
        if told is not None and told.metadata and not status.is_refused:
            given = _merge(given, told.metadata)
    return {**metadata, "metadata": given} if given else metadata


def _merge(into: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both; mappings under one name are merged, of other values the first stays."""
    merged = dict(into)
    for name, value in more.items():
        known = merged.setdefault(name, value)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            merged[name] = _merge(known, value)
    return merged


def list_headers(outcome: Outcome, retry_after_s: int, rule: str) -> list[tuple[str, str]]:
    """Headers for Envoy to add to the response of a refused request; ``rule`` is empty but for a rule's ban."""
    headers = [("x-ratchet-outcome", outcome), ("retry-after", str(retry_after_s))]
    return [*headers, ("x-ratchet-rule", rule)] if rule else headers


def _write_status(statuses: Sequence[LimitStatus], *, is_refused: bool) -> rls_pb2.RateLimitResponse.DescriptorStatus:
    enforced = [status for status in statuses if not status.limit.is_shadow]
    if not enforced:
        return rls_pb2.RateLimitResponse.DescriptorStatus(code=_OVER_LIMIT if is_refused else _OK)
    tightest = min(enforced, key=lambda status: (not status.is_refused, status.remaining))
    return rls_pb2.RateLimitResponse.DescriptorStatus(
        code=_OVER_LIMIT if any(status.is_refused for status in enforced) else _OK,
        current_limit=write_limit(tightest.limit),
        limit_remaining=min(tightest.remaining, _LARGEST_UINT32),
        duration_until_reset=Duration(
            seconds=tightest.reset_after_ms // 1000, nanos=tightest.reset_after_ms % 1000 * 1_000_000
        ),
    )


def write_limit(limit: Limit) -> _RateLimit:
    """Write a limit's terms as it was told, else its refill, and the unit that its period is a multiple of."""
    if limit.told is None:
        requests, (unit, multiplier) = limit.terms.refill, _find_unit(limit.terms)
    else:
        requests, unit, multiplier = (
            limit.told.requests_per_unit,
            _RateLimit.Unit.Value(limit.told.unit),
            limit.told.unit_multiplier,
        )
    written = _RateLimit(name=limit.label, requests_per_unit=min(requests, _LARGEST_UINT32), unit=unit)
    if multiplier != 1:
        written.unit_multiplier.CopyFrom(UInt32Value(value=multiplier))
    return written


def _find_unit(terms: Terms) -> tuple[rls_pb2.RateLimitResponse.RateLimit.Unit.ValueType, int]:
    """The largest unit that divides the refill period; a period under a second is told as a second."""
    period_us = terms.period_ticks * terms.tick_us
    for unit_us, unit in _UNITS_US.items():
        if period_us % unit_us == 0:
            return unit, min(period_us // unit_us, _LARGEST_UINT32)
    return _RateLimit.SECOND, max(1, period_us // 1_000_000)
