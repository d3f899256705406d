"""Envoy's rate limit service, version 3: a drop-in for a server that Envoy already asks.

Never an error on content, for Envoy lets a request pass when the call fails: what is out of bounds is hashed, a cost above a
capacity is OVER_LIMIT. All descriptors of a request are one all-or-nothing check and one event.

The domain is the action. In a descriptor ``user`` and ``user_id`` name the user, ``remote_address`` is the ip, every other key
is the attribute of that name. A limit applies to a descriptor that names all of its ``per``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from enforcer.bucket import Terms
from enforcer.check import LARGEST_TEXT_BYTES, MOST_ATTRIBUTES, Check, Plan, apply_limits, build_plan, name_attribute
from enforcer.decider import Decider
from enforcer.decision import Decision, LimitStatus
from enforcer.policy import Limit, Policies
from lua.keys import name_subject
from ratchet.envoy import core_pb2, rls_pb2, rls_pb2_grpc

_KINDS = {"user_id": "user", "remote_address": "ip"}
_ACTION = re.compile(r"[!-~]{1,128}").fullmatch
_UNKNOWN = "unknown"
_LARGEST_UINT32 = 2**32 - 1

_OK, _OVER_LIMIT = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
_RateLimit = rls_pb2.RateLimitResponse.RateLimit
_UNITS_US = {
    86_400_000_000: _RateLimit.DAY,
    3_600_000_000: _RateLimit.HOUR,
    60_000_000: _RateLimit.MINUTE,
    1_000_000: _RateLimit.SECOND,
}


class Asked(NamedTuple):
    """One request of Envoy's as a plan, and which of its limits answer which descriptor."""

    plan: Plan
    positions: tuple[tuple[int, ...], ...]
    """For each descriptor, the positions of its limits in the plan."""


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
        asked = plan_request(request, self._decider.policies)
        _, decision = await self._decider.decide_plan(asked.plan)
        return write_response(decision, asked.positions)


def plan_request(request: rls_pb2.RateLimitRequest, policies: Policies) -> Asked:
    """Read one request of any content."""
    action = _bound_action(request.domain)
    policy = policies.match(action)
    user_id = ""
    attributes: dict[str, str] = {}
    subjects: dict[str, None] = {}
    applied: dict[str, Limit] = {}
    keys: list[list[str]] = []
    for descriptor in request.descriptors:
        names = {}
        for entry in descriptor.entries:
            kind, value = _KINDS.get(entry.key, entry.key), _bound_text(entry.value)
            if kind == "user":
                user_id = user_id or value
                names[kind] = name_subject(kind, value)
            elif kind in policies.subjects:
                names[kind] = name_attribute(kind, value)
            if kind != "user" and len(attributes) < MOST_ATTRIBUTES:
                attributes.setdefault(_bound_text(kind), value)
        subjects.update(dict.fromkeys(names.values()))
        mine = apply_limits(policy, names, action)
        applied.update(mine)
        keys.append([key for key, _ in mine])
    check = Check(user_id, action, request.hits_addend or 1, attributes)
    place = {key: position for position, key in enumerate(applied)}
    plan = build_plan(check, policy, policies.version, subjects, list(applied.items()))
    return Asked(plan, tuple(tuple(place[key] for key in mine) for mine in keys))


def write_response(decision: Decision, positions: Sequence[Sequence[int]]) -> rls_pb2.RateLimitResponse:
    """Write one answer: a status for each descriptor, in their order."""
    is_refused = decision.outcome != "allow"
    response = rls_pb2.RateLimitResponse(overall_code=_OVER_LIMIT if is_refused else _OK)
    for mine in positions:
        statuses = [decision.limits[position] for position in mine] if decision.limits else []
        response.statuses.append(_write_status(statuses, is_banned=decision.outcome == "ban"))
    if is_refused:
        headers = [("x-ratchet-outcome", decision.outcome), ("retry-after", str(-(-decision.retry_after_ms // 1000)))]
        if decision.ban is not None and decision.ban.rule:
            headers.append(("x-ratchet-rule", decision.ban.rule))
        response.response_headers_to_add.extend(core_pb2.HeaderValue(key=key, value=value) for key, value in headers)
    if decision.is_degraded:
        response.dynamic_metadata["degraded"] = True
    return response


def _write_status(statuses: Sequence[LimitStatus], *, is_banned: bool) -> rls_pb2.RateLimitResponse.DescriptorStatus:
    enforced = [status for status in statuses if not status.limit.is_shadow]
    if not enforced:
        return rls_pb2.RateLimitResponse.DescriptorStatus(code=_OVER_LIMIT if is_banned else _OK)
    tightest = min(enforced, key=lambda status: (not status.is_refused, status.remaining))
    return rls_pb2.RateLimitResponse.DescriptorStatus(
        code=_OVER_LIMIT if any(status.is_refused for status in enforced) else _OK,
        current_limit=_write_limit(tightest.limit),
        limit_remaining=min(tightest.remaining, _LARGEST_UINT32),
        duration_until_reset=Duration(
            seconds=tightest.reset_after_ms // 1000, nanos=tightest.reset_after_ms % 1000 * 1_000_000
        ),
    )


def _write_limit(limit: Limit) -> _RateLimit:
    unit, multiplier = _find_unit(limit.terms)
    written = _RateLimit(name=limit.label, requests_per_unit=min(limit.terms.refill, _LARGEST_UINT32), unit=unit)
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


def _bound_text(value: str) -> str:
    encoded = value.encode()
    return value if len(encoded) <= LARGEST_TEXT_BYTES else f"sha256:{hashlib.sha256(encoded).hexdigest()}"


def _bound_action(domain: str) -> str:
    if not domain:
        return _UNKNOWN
    return domain if _ACTION(domain) else f"sha256:{hashlib.sha256(domain.encode()).hexdigest()}"
