"""The token bucket: the executable specification of ``lua/check.lua``, and the bucket in memory while Redis is away. Pure.

A level is counted in units of *tokens x refill period*: with 5 tokens a minute one token is 60,000,000 units and a
microsecond adds 5, so that no fraction is ever lost. Time runs in ticks of a microsecond, or of a millisecond where a long
period would pass 2^53, the largest integer that Lua's numbers hold exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple, Self

UNLOWERED = 1000
"""The factor that lowers nothing, per mille."""

LARGEST_EXACT = 2**53 - 1


class Generation(NamedTuple):
    """When terms came into force: they are told apart by it, and the newer ones win."""

    number: int
    """Goes up with each document; 0 before Redis was reached."""
    since_us: int
    """Redis time, microseconds since the epoch."""


UNREGISTERED = Generation(0, 0)
"""Of a document that Redis has not given a generation yet."""


class TermsOutOfRange(ValueError):  # noqa: N818 it says what is wrong
    """The terms cannot be counted exactly. Do not round them: choose others."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What one limit allows, in the units of the script."""

    capacity: int
    """Most tokens, >= 1."""
    refill: int
    """Tokens per period; units that one tick adds."""
    period_ticks: int
    """Ticks in a refill period; units that one token is."""
    tick_us: int
    """1 or 1000."""
    capacity_units: int
    tag: str
    """Names these terms: a bucket that was written under others counts as new."""

    @classmethod
    def of(cls, capacity: int, refill: int, period_us: int) -> Self:
        """Choose the finest tick in which these terms are exact.

        Args:
            capacity: Tokens, >= 1.
            refill: Tokens per period, >= 1.
            period_us: Microseconds, >= 1.

        Raises:
            TermsOutOfRange: Capacity x period does not fit, not even in milliseconds. The message says what would.
        """
        for tick_us in (1, 1000):
            period_ticks, odd = divmod(period_us, tick_us)
            units = capacity * period_ticks
            if odd == 0 and period_ticks > 0 and units <= LARGEST_EXACT and -(-units // refill) * UNLOWERED <= LARGEST_EXACT:
                text = f"{capacity} {refill} {period_ticks} {tick_us}"
                return cls(capacity, refill, period_ticks, tick_us, units, hashlib.sha256(text.encode()).hexdigest()[:6])
        milliseconds = max(1, period_us // 1000)
        largest = min(LARGEST_EXACT // milliseconds, LARGEST_EXACT // UNLOWERED * refill // milliseconds)
        raise TermsOutOfRange(f"capacity {capacity} is too large for this refill period; at most {largest} is allowed with it")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Stored state of one limit and subject."""

    level: int
    """Units, at the factor in force when it was written."""
    time_ticks: int
    tag: str
    level_at_1: int | None = None
    """Units there would be had no factor ever lowered the limit; None while that is the level."""
    remainder: int = 0
    """Thousandths of a tick that are not yet credited."""
    expires_us: int = 0
    """When it is forgotten, which is when it is full."""


class Status(IntEnum):
    """How the script judged one check."""

    ALLOW = 0
    LIMIT = 1
    THROTTLED = 2
    BAN = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class Taken:
    """What one check took, or would have."""

    status: Status
    refused: int
    """Sum of 2^i over the limits that had too few tokens at the factor in force."""
    refused_at_1: int
    """The same at factor 1."""
    levels: tuple[int, ...]
    """Units left in each bucket."""


def scale(units: int, factor: int) -> int:
    """Multiply by a factor in per mille, rounded down."""
    return units * factor // UNLOWERED


def lower_capacity(terms: Terms, factor: int, cost: int) -> int:
    """Units that a bucket holds at a factor: never fewer than the tokens that are asked for or given back."""
    return min(terms.capacity_units, max(scale(terms.capacity_units, factor), abs(cost) * terms.period_ticks))


def refill(bucket: Bucket | None, terms: Terms, factor: int, cost: int, now_us: int) -> Bucket:
    """Bring one bucket to the present.

    Args:
        bucket: As stored; None, expired or of other terms counts as full.
        factor: Per mille, 1 to 1000.
        cost: Tokens that are asked for or given back; a factor never lowers the capacity below so many.
        now_us: Microseconds since the epoch. A clock that steps back freezes the bucket.
    """
    now = now_us // terms.tick_us
    capacity = lower_capacity(terms, factor, cost)
    if bucket is None or bucket.tag != terms.tag or now_us >= bucket.expires_us:
        return Bucket(capacity, now, terms.tag, terms.capacity_units if factor < UNLOWERED else None)
    level, remainder, level_at_1 = bucket.level, bucket.remainder, bucket.level_at_1
    if factor < UNLOWERED and level_at_1 is None:
        level_at_1 = level
    elapsed = max(0, now - bucket.time_ticks)
    if level_at_1 is not None:
        level_at_1 = min(terms.capacity_units, level_at_1 + elapsed * terms.refill)
    ticks, remainder = divmod(elapsed * factor + remainder, UNLOWERED)
    level += ticks * terms.refill
    if level >= capacity:
        level, remainder = capacity, 0
    if factor == UNLOWERED and level_at_1 is not None and level >= level_at_1:
        level_at_1 = None
    return Bucket(level, max(bucket.time_ticks, now), terms.tag, level_at_1, remainder)


def take(
    buckets: Sequence[Bucket | None],
    terms: Sequence[Terms],
    is_shadow: Sequence[bool],
    costs: Sequence[int],
    factor: int,
    now_us: int,
) -> tuple[list[Bucket | None], Taken]:
    """Take from all buckets or from none; a bucket in shadow mode never decides and pays when it can.

    A cost below 0 gives back: no limit refuses it, and it fills no bucket above its capacity, at no factor.

    Args:
        buckets: One for each limit, None where nothing is stored.
        terms: Of each limit.
        is_shadow: Of each limit.
        costs: Whole tokens for each limit; 0 changes nothing.
        factor: Per mille, 1 to 1000.
        now_us: Microseconds since the epoch.

    Returns:
        The buckets as they are to be stored, and what was taken.
    """
    current = [refill(b, t, factor, c, now_us) for b, t, c in zip(buckets, terms, costs, strict=True)]
    units = [c * t.period_ticks for c, t in zip(costs, terms, strict=True)]
    has = [b.level >= u for b, u in zip(current, units, strict=True)]
    has_at_1 = [(b.level if b.level_at_1 is None else b.level_at_1) >= u for b, u in zip(current, units, strict=True)]
    passes = all(h or s for h, s in zip(has, is_shadow, strict=True))
    passes_at_1 = all(h or s for h, s in zip(has_at_1, is_shadow, strict=True))
    stored, levels = list(buckets), []
    for i, bucket in enumerate(current):
        after = bucket
        if passes and has[i]:
            after = replace(after, level=min(after.level - units[i], lower_capacity(terms[i], factor, costs[i])))
        if after.level_at_1 is not None and passes_at_1 and has_at_1[i]:
            after = replace(after, level_at_1=min(after.level_at_1 - units[i], terms[i].capacity_units))
        if after != bucket:
            stored[i] = replace(after, expires_us=_expire(after, terms[i], factor, now_us))
        levels.append(after.level)
    status = Status.ALLOW if passes else Status.THROTTLED if passes_at_1 else Status.LIMIT
    return stored, Taken(status, _mask(has), _mask(has_at_1), tuple(levels))


def _mask(has: Sequence[bool]) -> int:
    return sum(1 << i for i, h in enumerate(has) if not h)


def _expire(bucket: Bucket, terms: Terms, factor: int, now_us: int) -> int:
    """When the bucket is surely full at this factor, rounded up to a whole millisecond."""
    ticks = -(-(-(-(terms.capacity_units - bucket.level) // terms.refill) * UNLOWERED) // factor)
    if bucket.level_at_1 is not None:
        ticks = max(ticks, -(-(terms.capacity_units - bucket.level_at_1) // terms.refill))
    return now_us + max(1, -(-ticks * terms.tick_us // 1000)) * 1000


def measure_wait_us(level: int, terms: Terms, factor: int, units: int, now_us: int) -> int:
    """Microseconds until a bucket that holds ``level`` units at ``now_us`` holds ``units``; 0 when it does.

    Exact at factor 1; below it, too long by less than a tick divided by the factor.
    """
    if level >= units:
        return 0
    ticks = -(-(units - level) // terms.refill)
    if factor < UNLOWERED:
        ticks = -(-ticks * UNLOWERED // factor)
    return ticks * terms.tick_us - now_us % terms.tick_us
