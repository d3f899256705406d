"""From what the script saw to the answer. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import msgspec

from enforcer.decisions.plan import Plan, Template
from enforcer.limits.bucket import LARGEST_EXACT, UNLOWERED, Status, lower_capacity, measure_wait_us
from enforcer.limits.policy import Limit

Outcome = Literal["allow", "deny", "ban"]
Reason = Literal["ok", "limit", "banned", "throttled", "open"]


class Ban(msgspec.Struct, frozen=True, gc=False):
    """A ban in force."""

    until_ms: int
    level: int
    rule: str
    verdict_id: str
    subject: str
    scope: tuple[str, ...]


class Warned(msgspec.Struct, frozen=True, gc=False):
    """A warning in force: the subject stands one rung below a ban."""

    until_ms: int
    rule: str
    verdict_id: str
    subject: str


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What the script saw for one check."""

    now_us: int
    """Redis time, microseconds since the epoch; this process's own while degraded."""
    status: Status
    factor: int = UNLOWERED
    refused: int = 0
    """Sum of 2^i over the limits that had too few tokens at the factor in force."""
    refused_at_1: int = 0
    levels: tuple[int, ...] = ()
    """Units left in each bucket, in the order of the plan's limits; below 0 where a remembered refusal does not know."""
    ban: Ban | None = None
    warned: Warned | None = None
    is_degraded: bool = False
    is_cached: bool = False
    sent_s: float = 0.0
    """When the call was sent, on this process's monotonic clock."""


def refuse_incomplete(plan: Plan, now_us: int) -> Reading:
    """The reading of a check that lacks a subject that is required: nothing is known of any bucket, and nobody is to blame.

    Args:
        plan: Of a template that is incomplete.
        now_us: This process's clock, microseconds since the epoch.
    """
    count = len(plan.template.limits)
    return Reading(now_us, Status.LIMIT, refused=(1 << count) - 1, levels=(-1,) * count)


class LimitStatus(msgspec.Struct, frozen=True, gc=False):
    """One limit after one check."""

    position: int
    """Of the limit in the plan."""
    limit: Limit
    capacity: int
    """Tokens, at the factor in force."""
    remaining: int
    """Whole tokens."""
    retry_after_ms: int
    reset_after_ms: int
    is_refused: bool


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The enforcer's answer."""

    outcome: Outcome
    reason: Reason
    decided_at_ms: int
    limits: tuple[LimitStatus, ...] = ()
    retry_after_ms: int = 0
    remaining: int = 0
    """Whole tokens in the bucket that is nearest to empty."""
    factor: int = UNLOWERED
    ban: Ban | None = None
    warned: Warned | None = None
    refused: int = 0
    """Sum of 2^i over the limits that had too few tokens, those in shadow mode too."""
    refused_at_1: int = 0
    """Of the limits that refused by themselves, whatever the factor: what a ban may come from."""
    is_shadow: bool = False
    """A limit in shadow mode would have refused."""
    is_degraded: bool = False
    is_cached: bool = False
    is_reported: bool = False
    """A data plane decided, under its quota, and told us afterwards: the check's cost is how many requests it let pass."""


def decide(plan: Plan, reading: Reading) -> Decision:
    """Turn one reading into the answer. A limit whose level the reading does not know gets no status.

    ``retry_after_ms`` is the longest wait among the limits that refused: waited out alone it suffices, and 1 ms less does
    not while no throttle factor is in force.
    """
    decided_at_ms = reading.now_us // 1000
    ban = reading.ban
    if ban is not None:
        wait_ms = max(0, ban.until_ms - decided_at_ms)
        return Decision(
            "ban",
            "banned",
            decided_at_ms,
            retry_after_ms=wait_ms,
            ban=ban,
            is_degraded=reading.is_degraded,
            is_cached=reading.is_cached,
        )
    first = find_first(plan.template)
    if (
        reading.levels == first.levels
        and not reading.status
        and not reading.refused
        and plan.check.cost == 1
        and not plan.costs
        and reading.factor == UNLOWERED
        and not reading.is_degraded
    ):
        return Decision("allow", "ok", decided_at_ms, first.limits, 0, first.remaining, UNLOWERED, None, reading.warned)
    statuses = []
    retry_after_ms, remaining, is_shadow = 0, -1, False
    levels, costs, cost = reading.levels, plan.costs, plan.check.cost
    for position, limit in enumerate(plan.template.limits):
        level = levels[position]
        if level < 0:
            continue
        status = _read_limit(position, limit, level, reading, costs[position] if costs else cost)
        statuses.append(status)
        if limit.is_shadow:
            is_shadow = is_shadow or status.is_refused
            continue
        if status.is_refused and status.retry_after_ms > retry_after_ms:
            retry_after_ms = status.retry_after_ms
        if remaining < 0 or status.remaining < remaining:
            remaining = status.remaining
    outcome, reason = _OUTCOMES[reading.status]
    if reason == "open":
        retry_after_ms = max(retry_after_ms, OPEN_WAIT_MS)
    return Decision(
        outcome,
        reason,
        decided_at_ms,
        tuple(statuses),
        retry_after_ms,
        remaining if remaining > 0 else 0,  # noqa: FURB136 a call to max costs more
        reading.factor,
        None,
        reading.warned,
        reading.refused,
        reading.refused_at_1 if reading.status == _LIMIT else 0,
        is_shadow,
        reading.is_degraded,
        reading.is_cached,
    )


class First(msgspec.Struct, frozen=True, gc=False):
    """What a check for one token meets where every bucket was full: the same for all who are far below their limits."""

    levels: tuple[int, ...] | None
    """Units left in each bucket; None where the answer depends on the time too."""
    limits: tuple[LimitStatus, ...]
    remaining: int


@lru_cache(maxsize=4096)
def find_first(template: Template) -> First:
    """What a check for one token meets where every bucket was full, and no factor lowers the limits."""
    limits = template.limits
    levels = tuple(limit.terms.capacity_units - limit.terms.period_ticks for limit in limits)
    if not limits or any(limit.terms.tick_us > 1 for limit in limits):
        return First(None, (), 0)
    reading = Reading(0, Status.ALLOW, levels=levels)
    statuses = tuple(
        _read_limit(place, limit, level, reading, 1) for place, (limit, level) in enumerate(zip(limits, levels, strict=True))
    )
    return First(levels, statuses, min((x.remaining for x in statuses if not x.limit.is_shadow), default=0))


OPEN_WAIT_MS = 1000
"""Other probes are chosen each second."""

_LIMIT = int(Status.LIMIT)
_OUTCOMES: dict[int, tuple[Outcome, Reason]] = {
    int(Status.ALLOW): ("allow", "ok"),
    int(Status.LIMIT): ("deny", "limit"),
    int(Status.THROTTLED): ("deny", "throttled"),
    int(Status.OPEN): ("deny", "open"),
}


def _read_limit(position: int, limit: Limit, level: int, reading: Reading, cost: int) -> LimitStatus:
    terms, factor, now_us = limit.terms, reading.factor, reading.now_us
    full, period = terms.capacity_units, terms.period_ticks
    if factor < UNLOWERED:
        full = lower_capacity(terms, factor, cost)
    is_refused = bool(reading.refused >> position & 1)
    wait_ms = 0
    if is_refused:  # a limit in shadow mode may be asked for more than it will ever hold
        wait_us = measure_wait_us(level, terms, factor, cost * period, now_us)
        wait_ms = min(-(-wait_us // 1000), LARGEST_EXACT)
    reset_ms = -(-measure_wait_us(level, terms, factor, full, now_us) // 1000)
    return LimitStatus(position, limit, full // period, level // period, wait_ms, reset_ms, is_refused)
