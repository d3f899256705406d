"""Answers as protobuf bytes, written by hand where it is hot.

Most of an answer is the same for all checks of a limit; what differs are a few integers. So the constant part is written once
per limit, and the answer is put together from it: a sixth of the time of building messages. The messages of the service
modules are the reference (a test compares the two), and write what is rare: bans and warnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from enforcer.decisions.decision import Decision, LimitStatus, Outcome, find_first
from enforcer.decisions.plan import Plan, Template
from enforcer.envoy.rls import list_headers, write_limit, write_rls_response
from enforcer.limits.bucket import UNLOWERED
from enforcer.limits.policy import Limit
from enforcer.service import write_response
from ratchet.envoy import core_pb2, rls_pb2
from ratchet.v1 import enforcer_pb2

_SMALL = 1 << 14


def _write_varint(value: int) -> bytes:
    """Base 128, least significant group first, the high bit says that more follow (protobuf's encoding guide)."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS = [_write_varint(value) for value in range(_SMALL)]


def write_varint(value: int) -> bytes:
    """Write one non-negative integer."""
    return _VARINTS[value] if value < _SMALL else _write_varint(value)


def _write_field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return write_varint(number << 3 | 2) + write_varint(len(content)) + content


@lru_cache(maxsize=65_536)
def _begin_limit(limit: Limit, capacity: int) -> bytes:
    message = enforcer_pb2.LimitStatus(policy=limit.policy, name=limit.name, capacity=capacity)
    return message.SerializeToString()


@lru_cache(maxsize=4096)
def _end_limit(is_refused: bool, is_shadow: bool) -> bytes:
    return enforcer_pb2.LimitStatus(refused=is_refused, shadow=is_shadow).SerializeToString()


@lru_cache(maxsize=4096)
def _write_head(is_allowed: bool, is_throttled: bool, policy: str, version: str) -> bytes:
    return enforcer_pb2.CheckResponse(
        outcome=enforcer_pb2.OUTCOME_ALLOW if is_allowed else enforcer_pb2.OUTCOME_DENY,
        reason=enforcer_pb2.REASON_OK
        if is_allowed
        else enforcer_pb2.REASON_THROTTLED
        if is_throttled
        else enforcer_pb2.REASON_LIMIT,
        policy=policy,
        policy_version=version,
    ).SerializeToString()


@lru_cache(maxsize=64)
def _write_flags(is_shadow: bool, is_degraded: bool, is_cached: bool) -> bytes:
    return enforcer_pb2.CheckResponse(shadow=is_shadow, degraded=is_degraded, cached=is_cached).SerializeToString()


_FACTOR_UNLOWERED = enforcer_pb2.CheckResponse(factor_per_mille=UNLOWERED).SerializeToString()


def encode_response(plan: Plan, decision: Decision) -> bytes:
    """Write ``ratchet.v1.CheckResponse``."""
    if decision.ban is not None or decision.warned is not None or decision.factor != UNLOWERED:
        return write_response(plan, decision).SerializeToString()
    template = plan.template
    if decision.limits and decision.limits is find_first(template).limits:
        return _write_first_response(template)
    return _join_response(template, decision)


@lru_cache(maxsize=4096)
def _write_first_response(template: Template) -> bytes:
    first = find_first(template)
    return _join_response(template, Decision("allow", "ok", 0, first.limits, 0, first.remaining))


def _join_response(template: Template, decision: Decision) -> bytes:
    parts = [_write_head(decision.outcome == "allow", decision.reason == "throttled", template.policy.name, template.version)]
    for status in decision.limits:
        limit = status.limit
        body = _begin_limit(limit, status.capacity)
        if status.remaining:
            body += b"\x20" + write_varint(status.remaining)
        if status.retry_after_ms:
            body += b"\x28" + write_varint(status.retry_after_ms)
        if status.reset_after_ms:
            body += b"\x30" + write_varint(status.reset_after_ms)
        if status.is_refused or limit.is_shadow:
            body += _end_limit(status.is_refused, limit.is_shadow)
        parts.append(b"\x2a" + write_varint(len(body)) + body)
    if decision.retry_after_ms:
        parts.append(b"\x30" + write_varint(decision.retry_after_ms))
    if decision.is_shadow or decision.is_degraded or decision.is_cached:
        parts.append(_write_flags(decision.is_shadow, decision.is_degraded, decision.is_cached))
    parts.append(_FACTOR_UNLOWERED)
    return b"".join(parts)


_OK, _OVER_LIMIT = b"\x08\x01", b"\x08\x02"
"""``code`` of a status, ``overall_code`` of an answer."""
_UNMATCHED = _write_field(2, _OK)
_BANNED = _write_field(2, _OVER_LIMIT)


@lru_cache(maxsize=65_536)
def _begin_status(limit: Limit, is_refused: bool) -> bytes:
    return (_OVER_LIMIT if is_refused else _OK) + _write_field(2, write_limit(limit).SerializeToString())


@lru_cache(maxsize=_SMALL)
def _write_duration(milliseconds: int) -> bytes:
    """``google.protobuf.Duration``."""
    seconds, rest = divmod(milliseconds, 1000)
    written = b"\x08" + write_varint(seconds) if seconds else b""
    return written + b"\x10" + write_varint(rest * 1_000_000) if rest else written


@lru_cache(maxsize=_SMALL)
def _write_headers(outcome: Outcome, retry_after_s: int, rule: str) -> bytes:
    headers = [core_pb2.HeaderValue(key=key, value=value) for key, value in list_headers(outcome, retry_after_s, rule)]
    return rls_pb2.RateLimitResponse(response_headers_to_add=headers).SerializeToString()


def encode_rls_response(plan: Plan, decision: Decision) -> bytes:
    """Write ``envoy.service.ratelimit.v3.RateLimitResponse``."""
    statuses, ban = decision.limits, decision.ban
    if (
        decision.is_degraded
        or decision.is_shadow
        or plan.template.tells_more
        or (len(statuses) != len(plan.template.limits) and ban is None)
    ):
        return write_rls_response(plan, decision).SerializeToString()
    if decision.outcome == "allow":
        if statuses and statuses is find_first(plan.template).limits:
            return _write_first_rls_response(plan.template)
        return _join_allowed(plan.template, statuses)
    if ban is not None:
        parts = [_OVER_LIMIT, _BANNED * len(plan.template.positions)]
    else:
        parts = [_OVER_LIMIT, *[_encode_status(statuses, positions) for positions in plan.template.positions]]
    wait_s = -(-decision.retry_after_ms // 1000)
    parts.append(_write_headers(decision.outcome, wait_s, "" if ban is None else ban.rule))
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _write_first_rls_response(template: Template) -> bytes:
    return _join_allowed(template, find_first(template).limits)


def _join_allowed(template: Template, statuses: Sequence[LimitStatus]) -> bytes:
    return _OK + b"".join([_encode_status(statuses, positions) for positions in template.positions])


def _encode_status(statuses: Sequence[LimitStatus], positions: Sequence[int]) -> bytes:
    tightest: LimitStatus | None = None
    for position in positions:
        status = statuses[position]
        if not status.limit.is_shadow and (
            tightest is None or (status.is_refused, -status.remaining) > (tightest.is_refused, -tightest.remaining)
        ):
            tightest = status
    if tightest is None:
        return _UNMATCHED
    body = _begin_status(tightest.limit, tightest.is_refused)
    remaining, reset_ms = tightest.remaining, tightest.reset_after_ms
    if remaining:
        body += b"\x18" + (_VARINTS[remaining] if remaining < _SMALL else _write_varint(min(remaining, 0xFFFFFFFF)))
    duration = _write_duration(reset_ms)
    body += b"\x22" + _VARINTS[len(duration)] + duration
    return b"\x12" + _VARINTS[len(body)] + body


def encode_batch_response(results: Sequence[bytes]) -> bytes:
    """Write ``ratchet.v1.CheckBatchResponse`` of encoded answers."""
    return b"".join([part for body in results for part in (b"\x0a", write_varint(len(body)), body)])
