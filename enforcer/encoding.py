"""Answers as protobuf bytes, written by hand where it is hot.

Most of an answer is the same for all checks of a limit; what differs are a few integers. So the constant part is written once
per limit, and the answer is put together from it: a sixth of the time of building messages. The messages of the service
modules are the reference (a test compares the two), and write what is rare: bans and warnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from enforcer.bucket import UNLOWERED
from enforcer.decision import Decision, LimitStatus
from enforcer.plan import Plan
from enforcer.policy import Limit
from enforcer.rls import write_limit, write_rls_response
from enforcer.service import write_response
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


_OK_STATUS = b"\x08\x01"
_OK_OVERALL = b"\x08\x01"
_UNMATCHED = _write_field(2, _OK_STATUS)


@lru_cache(maxsize=65_536)
def _begin_status(limit: Limit) -> bytes:
    return _OK_STATUS + _write_field(2, write_limit(limit).SerializeToString())


@lru_cache(maxsize=_SMALL)
def _write_duration(milliseconds: int) -> bytes:
    """``google.protobuf.Duration``."""
    seconds, rest = divmod(milliseconds, 1000)
    written = b"\x08" + write_varint(seconds) if seconds else b""
    return written + b"\x10" + write_varint(rest * 1_000_000) if rest else written


def encode_rls_response(plan: Plan, decision: Decision) -> bytes:
    """Write ``envoy.service.ratelimit.v3.RateLimitResponse``."""
    statuses = decision.limits
    if decision.outcome != "allow" or decision.is_degraded or len(statuses) != len(plan.template.limits):
        return write_rls_response(plan, decision).SerializeToString()
    parts = [_OK_OVERALL]
    for positions in plan.template.positions:
        tightest: LimitStatus | None = None
        for position in positions:
            status = statuses[position]
            if not status.limit.is_shadow and (tightest is None or status.remaining < tightest.remaining):
                tightest = status
        if tightest is None:
            parts.append(_UNMATCHED)
            continue
        body = _begin_status(tightest.limit)
        remaining, reset_ms = tightest.remaining, tightest.reset_after_ms
        if remaining:
            body += b"\x18" + (_VARINTS[remaining] if remaining < _SMALL else _write_varint(min(remaining, 0xFFFFFFFF)))
        duration = _write_duration(reset_ms) if reset_ms < _SMALL else _write_duration.__wrapped__(reset_ms)
        body += b"\x22" + _VARINTS[len(duration)] + duration
        parts.append(b"\x12" + _VARINTS[len(body)] + body)
    return b"".join(parts)


def encode_batch_response(results: Sequence[bytes]) -> bytes:
    """Write ``ratchet.v1.CheckBatchResponse`` of encoded answers."""
    return b"".join([part for body in results for part in (b"\x0a", write_varint(len(body)), body)])
