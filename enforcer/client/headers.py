"""What a decision becomes in HTTP: headers and a problem document. Pure.

Sources: RateLimit header fields for HTTP (draft-ietf-httpapi-ratelimit-headers-11), Structured Field Values (RFC 9651),
Retry-After (RFC 9110 section 10.2.3), Problem Details (RFC 9457).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enforcer.client.decision import Decision, LimitStatus

PROBLEM_CONTENT_TYPE = "application/problem+json"
OUTCOME_HEADER = "X-Ratchet-Outcome"
"""``allow``, ``deny`` or ``ban``: tells our 403 from one of the backend's own."""
FAIL_OPEN_HEADER = "X-Ratchet-Fail-Open"
"""Stands on a response that was served although the enforcer gave no decision, and says why."""
WARNING_HEADER = "X-Ratchet-Warning"
"""The rule that the caller is about to be banned by, and until when the warning stands."""

LARGEST_INTEGER = 999_999_999_999_999
"""Structured fields hold integers of up to 15 digits; a bucket may hold more."""
NO_DECISION_RETRY_S = 1

_PROBLEMS = "https://iana.org/assignments/http-problem-types"
_TITLES = {
    "quota-exceeded": "Request cannot be satisfied as assigned quota has been exceeded",
    "temporary-reduced-capacity": "Request cannot be satisfied due to temporary server capacity constraints",
    "abnormal-usage-detected": "Request not satisfied due to detection of abnormal request pattern",
}


def list_headers(decision: Decision) -> dict[str, str]:
    """List the headers of a response.

    Limits in shadow mode are not told. ``t`` of a limit that refused is when this request could pass, of one that did not
    when its bucket is full; it stands only where it is no later than Retry-After, which the draft asks for.
    """
    if decision.failure:
        if decision.is_allowed:
            return {FAIL_OPEN_HEADER: decision.failure}
        return {"Retry-After": str(NO_DECISION_RETRY_S), "Cache-Control": "no-store"}
    told: dict[str, str] = {OUTCOME_HEADER: decision.outcome}
    limits = [limit for limit in decision.limits if not limit.is_shadow]
    if limits:
        named = list(zip(_name_limits(limits), limits, strict=True))
        told["RateLimit-Policy"] = ", ".join(_describe_terms(name, limit, decision.cost) for name, limit in named)
        told["RateLimit"] = ", ".join(_describe_level(name, limit, decision) for name, limit in named)
    if decision.warned is not None:
        told[WARNING_HEADER] = f"{_quote(decision.warned.rule)};until={decision.warned.until_ms // 1000}"
    if not decision.is_allowed:
        told["Retry-After"] = str(wait_s(decision.retry_after_ms))
        told["Cache-Control"] = "no-store"
    return told


def list_older_headers(decision: Decision) -> dict[str, str]:
    """List the triple that clients know from before the draft, of the limit that is nearest to refusing.

    ``X-RateLimit-Reset`` is in seconds from now, as in Envoy and in the draft, and not an instant.
    """
    limits = [limit for limit in decision.limits if not limit.is_shadow]
    if not limits:
        return {}
    nearest = min(limits, key=lambda limit: (not limit.is_refused, limit.remaining / max(1, limit.capacity)))
    reset_ms = nearest.retry_after_ms if nearest.is_refused else nearest.reset_after_ms
    return {
        "X-RateLimit-Limit": str(nearest.capacity),
        "X-RateLimit-Remaining": str(max(0, nearest.remaining)),
        "X-RateLimit-Reset": str(-(-reset_ms // 1000)),
    }


def describe_problem(decision: Decision) -> dict[str, object] | None:
    """Describe why a request is refused; None when it is to be served."""
    if decision.is_allowed:
        return None
    if decision.failure:
        detail = f"There is no decision about this request ({decision.failure})."
        return {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": detail}
    retry_s = wait_s(decision.retry_after_ms)
    retry_at = _as_instant(decision.received_ms + decision.retry_after_ms)
    ban = decision.ban
    if decision.outcome == "ban" and ban is not None:
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
    limits = [limit for limit in decision.limits if not limit.is_shadow]
    violated = [name for name, limit in zip(_name_limits(limits), limits, strict=True) if limit.is_refused]
    if decision.reason == "limit":
        kind, detail = "quota-exceeded", f"Limit {' and '.join(violated) or decision.policy} is used up."
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


def wait_s(wait_ms: int) -> int:
    """Round up: who comes back after the told seconds must not come too early."""
    return _clamp(max(1, -(-wait_ms // 1000)))


def _problem(kind: str, *, status: int, detail: str, **members: object) -> dict[str, object]:
    return {"type": f"{_PROBLEMS}#{kind}", "title": _TITLES[kind], "status": status, "detail": detail, **members}


def _name_limits(limits: Sequence[LimitStatus]) -> list[str]:
    """Name limits as short as they stay distinct: by their own names, with their policy where two share one."""
    uses = Counter(limit.name for limit in limits)
    return [limit.name if uses[limit.name] == 1 else limit.label for limit in limits]


def _describe_terms(name: str, limit: LimitStatus, cost: int) -> str:
    window_s = _find_window_s(limit, cost)
    return f"{_quote(name)};q={_clamp(limit.capacity)}" + ("" if window_s is None else f";w={window_s}")


def _describe_level(name: str, limit: LimitStatus, decision: Decision) -> str:
    item = f"{_quote(name)};r={_clamp(limit.remaining)}"
    if limit.is_refused:
        return f"{item};t={wait_s(limit.retry_after_ms)}"
    if decision.is_allowed and limit.reset_after_ms > 0:
        return f"{item};t={wait_s(limit.reset_after_ms)}"
    return item


def _find_window_s(limit: LimitStatus, cost: int) -> int | None:
    """Find in how many seconds an empty bucket is full, where the answer tells it exactly; ``w`` is optional.

    A refused limit has both waits to the millisecond, until ``cost`` and until ``capacity``: their difference refills
    ``capacity - cost`` tokens. Of an allowed one the fraction of a token that the bucket holds is unknown, and a ``w`` that
    wobbles is worse than none.
    """
    lacking_tokens, lacking_ms = limit.capacity - cost, limit.reset_after_ms - limit.retry_after_ms
    if not limit.is_refused or lacking_tokens < 1 or lacking_ms < 1:
        return None
    return _clamp(max(1, round(lacking_ms * limit.capacity / lacking_tokens / 1000)))


def _as_instant(at_ms: int) -> str:
    # RFC 3339; rounded up for the same reason
    return datetime.fromtimestamp(-(-at_ms // 1000), tz=UTC).isoformat().replace("+00:00", "Z")


def _clamp(number: int) -> int:
    return min(max(0, number), LARGEST_INTEGER)


def _quote(text: str) -> str:
    """Write a structured-field String (RFC 9651 section 3.3.3): printable ASCII, quotes and backslashes escaped."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
