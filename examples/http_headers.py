"""What a decision becomes in HTTP: status, headers and a problem document. Pure.

Sources: RateLimit header fields for HTTP (draft-ietf-httpapi-ratelimit-headers, its editors' copy of September 2025),
Structured Field Values (RFC 9651), Retry-After (RFC 9110 section 10.2.3), Problem Details (RFC 9457).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ratchet.v1 import enforcer_pb2

PROBLEM_CONTENT_TYPE = "application/problem+json"
OUTCOME_HEADER = "x-ratchet-outcome"
"""``allow``, ``deny`` or ``ban``: tells our 403 from one of the backend's own."""
FAIL_OPEN_HEADER = "x-ratchet-fail-open"
"""Stands on a response that was served although the enforcer gave no decision, and says why."""
WARNING_HEADER = "x-ratchet-warning"
"""The rule that the caller is about to be banned by, and until when the warning stands."""

LARGEST_INTEGER = 999_999_999_999_999
"""Structured fields hold integers of up to 15 digits; a bucket may hold more."""

_PROBLEMS = "https://iana.org/assignments/http-problem-types"
_TITLES = {
    "quota-exceeded": "Request cannot be satisfied as assigned quota has been exceeded",
    "temporary-reduced-capacity": "Request cannot be satisfied due to temporary server capacity constraints",
    "abnormal-usage-detected": "Request not satisfied due to detection of abnormal request pattern",
}
_STATUS = {enforcer_pb2.OUTCOME_ALLOW: 200, enforcer_pb2.OUTCOME_DENY: 429, enforcer_pb2.OUTCOME_BAN: 403}
_NAMES = {enforcer_pb2.OUTCOME_ALLOW: "allow", enforcer_pb2.OUTCOME_DENY: "deny", enforcer_pb2.OUTCOME_BAN: "ban"}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """How a decision is told over HTTP.

    Attributes:
        status: 200 serve the request, 429 refused for now, 403 banned.
        headers: To set on the response, whatever its status ends up as.
        problem: Body of a refusal, to send as ``application/problem+json``; None when the request is to be served.
    """

    status: int
    headers: dict[str, str]
    problem: dict[str, object] | None


def describe_decision(response: enforcer_pb2.CheckResponse, *, now_ms: int, cost: int = 1) -> HttpAnswer:
    """Tell a decision in HTTP terms.

    Limits in shadow mode are not told. ``t`` of a limit that refused is when this request could pass, of one that did not
    when its bucket is full; it stands only where it is no later than Retry-After, which the draft asks for.

    Args:
        response: The enforcer's answer.
        now_ms: The caller's clock, for the instants in the problem document; waits are relative and need no clock.
        cost: What was asked for, in tokens.

    Raises:
        ValueError: The outcome is none that this version knows. Do not serve the request: answer 500.
    """
    if response.outcome not in _STATUS:
        raise ValueError(f"unknown outcome {response.outcome}")
    headers = {OUTCOME_HEADER: _NAMES[response.outcome]}
    limits = [limit for limit in response.limits if not limit.shadow]
    if limits:
        named = list(zip(_name_limits(limits), limits, strict=True))
        headers["RateLimit-Policy"] = ", ".join(_describe_terms(name, limit, cost) for name, limit in named)
        headers["RateLimit"] = ", ".join(_describe_level(name, limit, response) for name, limit in named)
    if response.HasField("warning"):
        headers[WARNING_HEADER] = f"{_quote(response.warning.rule)};until={response.warning.until_ms // 1000}"
    if response.outcome == enforcer_pb2.OUTCOME_ALLOW:
        return HttpAnswer(200, headers, None)
    headers["Retry-After"] = str(_wait_s(response.retry_after_ms))
    headers["Cache-Control"] = "no-store"
    return HttpAnswer(_STATUS[response.outcome], headers, _describe_problem(response, limits, now_ms))


def describe_fail_open(why: str) -> dict[str, str]:
    """Headers of a response that was served without a decision; ``why`` in printable ASCII."""
    return {FAIL_OPEN_HEADER: why}


def _describe_problem(
    response: enforcer_pb2.CheckResponse, limits: Sequence[enforcer_pb2.LimitStatus], now_ms: int
) -> dict[str, object]:
    retry_s = _wait_s(response.retry_after_ms)
    retry_at = _as_instant(now_ms + response.retry_after_ms)
    violated = [name for name, limit in zip(_name_limits(limits), limits, strict=True) if limit.refused]
    if response.outcome == enforcer_pb2.OUTCOME_BAN:
        ban = response.ban
        by = f"rule {ban.rule}" if ban.rule else "an operator"
        return _problem(
            "abnormal-usage-detected",
            status=403,
            detail=f"Banned by {by} until {_as_instant(ban.until_ms)}. Requests until then do not extend the ban.",
            retry_after_s=retry_s,
            retry_at=_as_instant(ban.until_ms),
            ban_until=_as_instant(ban.until_ms),
            ban_rule=ban.rule,
            ban_level=ban.level,
            ban_scope=list(ban.scope),
            verdict_id=ban.verdict_id,
        )
    if response.reason == enforcer_pb2.REASON_LIMIT:
        kind, detail = "quota-exceeded", f"Limit {' and '.join(violated) or response.policy} is used up."
    else:
        kind, detail = "temporary-reduced-capacity", "The limits are lowered for a while."
    return _problem(
        kind,
        status=429,
        detail=f"{detail} This request could pass in {retry_s} s, at {retry_at}.",
        retry_after_s=retry_s,
        retry_at=retry_at,
        **{"violated-policies": violated},
    )


def _problem(kind: str, *, status: int, detail: str, **members: object) -> dict[str, object]:
    return {"type": f"{_PROBLEMS}#{kind}", "title": _TITLES[kind], "status": status, "detail": detail, **members}


def _name_limits(limits: Sequence[enforcer_pb2.LimitStatus]) -> list[str]:
    """Name limits as short as they stay distinct: by their own names, with their policy where two share one."""
    uses = Counter(limit.name for limit in limits)
    return [limit.name if uses[limit.name] == 1 else f"{limit.policy}:{limit.name}" for limit in limits]


def _describe_terms(name: str, limit: enforcer_pb2.LimitStatus, cost: int) -> str:
    window_s = _find_window_s(limit, cost)
    return f"{_quote(name)};q={_clamp(limit.capacity)}" + ("" if window_s is None else f";w={window_s}")


def _describe_level(name: str, limit: enforcer_pb2.LimitStatus, response: enforcer_pb2.CheckResponse) -> str:
    item = f"{_quote(name)};r={_clamp(limit.remaining)}"
    if limit.refused:
        return f"{item};t={_wait_s(limit.retry_after_ms)}"
    if response.outcome == enforcer_pb2.OUTCOME_ALLOW and limit.reset_after_ms > 0:
        return f"{item};t={_wait_s(limit.reset_after_ms)}"
    return item


def _find_window_s(limit: enforcer_pb2.LimitStatus, cost: int) -> int | None:
    """Find in how many seconds an empty bucket is full, where the answer tells it exactly; ``w`` is optional.

    A refused limit has both waits to the millisecond, until ``cost`` and until ``capacity``: their difference refills
    ``capacity - cost`` tokens. Of an allowed one the fraction of a token that the bucket holds is unknown, and a ``w`` that
    wobbles is worse than none.
    """
    lacking_tokens, lacking_ms = limit.capacity - cost, limit.reset_after_ms - limit.retry_after_ms
    if not limit.refused or lacking_tokens < 1 or lacking_ms < 1:
        return None
    return max(1, round(lacking_ms * limit.capacity / lacking_tokens / 1000))


def _wait_s(wait_ms: int) -> int:
    """Round up: who comes back after the told seconds must not come too early."""
    return _clamp(max(1, -(-wait_ms // 1000)))


def _as_instant(at_ms: int) -> str:
    # RFC 3339; rounded up for the same reason
    return datetime.fromtimestamp(-(-at_ms // 1000), tz=UTC).isoformat().replace("+00:00", "Z")


def _clamp(number: int) -> int:
    return min(max(0, number), LARGEST_INTEGER)


def _quote(text: str) -> str:
    """Write a structured-field String (RFC 9651 section 3.3.3): printable ASCII, quotes and backslashes escaped."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
