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
from functools import lru_cache

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from enforcer.bucket import Terms
from enforcer.check import LARGEST_TEXT_BYTES, MOST_ATTRIBUTES, Check, name_attribute
from enforcer.decider import Decider
from enforcer.decision import Decision, LimitStatus, Outcome
from enforcer.guard import current_caller
from enforcer.layouts import Name, walk_fields
from enforcer.plan import Descriptor, Plan
from enforcer.planner import Planner
from enforcer.policy import Limit
from ratchet.envoy import core_pb2, rls_pb2, rls_pb2_grpc

_KINDS = {"user_id": "user", "remote_address": "ip"}
_ACTION = re.compile(r"[!-~]{1,128}").fullmatch
_DESCRIPTORS, _ENTRIES = 2, 1
"""Numbers of fields: of a request, of a descriptor."""
_UNKNOWN = "unknown"
_LARGEST_UINT32 = 2**32 - 1
_SURELY_SHORT = LARGEST_TEXT_BYTES // 4
"""Characters: at most 4 bytes each."""

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
        plan = plan_request(request, self._decider.planner)
        current_caller().permit(plan)
        return write_rls_response(*await self._decider.decide(plan))


def plan_request(request: rls_pb2.RateLimitRequest, planner: Planner) -> Plan:
    """Plan one request of any content. A subject that several descriptors name is one subject."""
    declared, further = planner.policies.subjects, planner.policies.attributes
    user_id = ""
    attributes: dict[str, str] = {}
    slots: dict[tuple[str, str], int] = {}
    others: dict[tuple[str, str], int] = {}
    descriptors: list[Descriptor] = []
    for descriptor in request.descriptors:
        named = []
        for entry in descriptor.entries:
            kind, value = entry.key, entry.value
            kind = _KINDS.get(kind, kind)
            if len(value) > _SURELY_SHORT:
                value = _bound_text(value)
            if kind == "user":
                user_id = user_id or value
            elif len(attributes) < MOST_ATTRIBUTES:
                attributes.setdefault(_bound_text(kind), value)
            if kind in declared:
                subject = (kind, value)
                slot = slots.get(subject)
                if slot is None:
                    slot = slots[subject] = len(slots)
                named.append((kind, slot))
            elif kind in further:
                named.append((kind, ~others.setdefault((kind, value), len(others))))
        descriptors.append(tuple(named))
    if others:  # their slots come after those of the subjects, which are only now known
        descriptors = [
            tuple((kind, slot if slot >= 0 else len(slots) + ~slot) for kind, slot in descriptor) for descriptor in descriptors
        ]
    check = Check(user_id, _bound_action(request.domain), request.hits_addend or 1, attributes)
    return planner.build(
        check,
        tuple(descriptors),
        [name_attribute(kind, value) for kind, value in slots],
        [name_attribute(kind, value) for kind, value in others],
    )


def plan_payload(payload: bytes, planner: Planner) -> Plan:
    """Plan one request from its bytes: as :func:`plan_request` would, but parsed only where no earlier one was like it.

    Raises:
        google.protobuf.message.DecodeError: These bytes are no such message.
    """
    plan = planner.requests.plan(payload)
    if plan is None or (planner.overrides and planner.is_overridden(plan)):
        plan = plan_request(rls_pb2.RateLimitRequest.FromString(payload), planner)
        planner.requests.learn(payload, _find_values(payload), plan)
    return plan


def _find_values(payload: bytes) -> list[Name] | None:
    """Find the values of a request that parses; None where an entry has not just a key and a value."""
    names = []
    for field, descriptor, descriptor_end in walk_fields(payload, 0, len(payload)):
        if field != _DESCRIPTORS:
            continue
        for part, entry, entry_end in walk_fields(payload, descriptor, descriptor_end):
            if part != _ENTRIES:
                continue
            key, value = (*walk_fields(payload, entry, entry_end), None, None)[:2]
            if key is None or value is None or (key[0], value[0]) != (1, 2) or value[2] != entry_end:
                return None
            name = payload[key[1] : key[2]].decode()
            names.append((_KINDS.get(name, name), value[1], value[2]))
    return names


def write_rls_response(plan: Plan, decision: Decision) -> rls_pb2.RateLimitResponse:
    """Write one answer: a status for each descriptor, in their order."""
    is_refused = decision.outcome != "allow"
    response = rls_pb2.RateLimitResponse(overall_code=_OVER_LIMIT if is_refused else _OK)
    by_position = {status.position: status for status in decision.limits}
    for positions in plan.template.positions:
        statuses = [by_position[position] for position in positions if position in by_position]
        response.statuses.append(_write_status(statuses, is_refused=decision.outcome == "ban" or plan.template.is_incomplete))
    if is_refused:
        wait_s = -(-decision.retry_after_ms // 1000)
        rule = "" if decision.ban is None else decision.ban.rule
        headers = list_headers(decision.outcome, wait_s, rule)
        response.response_headers_to_add.extend(core_pb2.HeaderValue(key=key, value=value) for key, value in headers)
    if decision.is_degraded:
        response.dynamic_metadata["degraded"] = True
    return response


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
    """Write a limit's terms: its refill, and the unit that its period is a multiple of."""
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


@lru_cache(maxsize=4096)
def _bound_action(domain: str) -> str:
    if not domain:
        return _UNKNOWN
    return domain if _ACTION(domain) else f"sha256:{hashlib.sha256(domain.encode()).hexdigest()}"
