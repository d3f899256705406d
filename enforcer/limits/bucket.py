"""The token bucket: the executable specification of ``lua/check.lua``, and the bucket in memory while Redis is away. Pure.

A level is counted in units of *tokens x refill period*: with 5 tokens a minute one token is 60,000,000 units and a
microsecond adds 5, so that no fraction is ever lost. Time runs in ticks of a microsecond, or of a millisecond where a long
period would pass 2^53, the largest integer that Lua's numbers hold exactly.

A bucket carries the terms that it was written under. When they change it keeps its fill ratio: whoever decides by newer terms
brings it over, and whoever still decides by older ones goes by those that it carries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple, Self

UNLOWERED = 1000
"""The factor that lowers nothing, per mille."""

LARGEST_EXACT = 2**53 - 1

_SHARES = 2**20
"""A fill ratio is counted in so many parts, about a millionth each."""


class Generation(NamedTuple):
    """When terms came into force: they are told apart by it, and the newer ones win."""

    number: int
    """Goes up with each document; 0 before Redis was reached."""
    since_us: int
    """Redis time, microseconds since the epoch."""


UNREGISTERED = Generation(0, 0)
"""Of a document that Redis has not given a generation yet."""


class TermsOutOfRange(ValueError):  # noqa: N818 it says what is wrong
    """The terms cannot be counted exactly. Do not round them: choose others.

    ``largest`` is the largest capacity that could be, with this refill.
    """

    def __init__(self, capacity: int, largest: int) -> None:
        self.largest = largest
        super().__init__(f"capacity {capacity} is too large for this refill period; at most {largest} is allowed with it")


_TICKS = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "us": 1}
_TAG = re.compile(r"([0-9]+):(?:([0-9]+):)?([0-9]+)/([0-9]+)([a-z]+)")


@dataclass(frozen=True, slots=True)
class Terms:
    """What one limit allows, in the units of the script."""

    capacity: int
    """Most tokens; 0 refuses everything."""
    refill: int
    """Tokens per period; units that one tick adds."""
    period_ticks: int
    """Ticks in a refill period; units that one token is."""
    tick_us: int
    """1 or 1000."""
    generation: Generation = UNREGISTERED
    capacity_units: int = field(init=False)
    tag: str = field(init=False)
    """What a bucket carries: ``generation:capacity:refill/period``, the capacity left out where it is the refill."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "capacity_units", self.capacity * self.period_ticks)
        object.__setattr__(self, "tag", self._write_tag())

    def _write_tag(self) -> str:
        if self.tick_us == 1:
            unit = next(unit for unit, ticks in _TICKS.items() if self.period_ticks % ticks == 0)
            period = f"{self.period_ticks // _TICKS[unit]}{unit}"
        else:
            period = f"{self.period_ticks}ms"
        capacity = "" if self.capacity == self.refill else f"{self.capacity}:"
        return f"{self.generation.number}:{capacity}{self.refill}/{period}"

    @classmethod
    def of(cls, capacity: int, refill: int, period_us: int) -> Self:
        """Choose the finest tick in which these terms are exact.

        Args:
            capacity: Tokens, >= 0.
            refill: Tokens per period, >= 1.
            period_us: Microseconds, >= 1.

        Raises:
            TermsOutOfRange: Capacity x period does not fit, not even in milliseconds. The message says what would.
        """
        for tick_us in (1, 1000):
            period_ticks, odd = divmod(period_us, tick_us)
            units = capacity * period_ticks
            if odd == 0 and period_ticks > 0 and units <= LARGEST_EXACT and -(-units // refill) * UNLOWERED <= LARGEST_EXACT:
                return cls(capacity, refill, period_ticks, tick_us)
        milliseconds = max(1, period_us // 1000)
        largest = min(LARGEST_EXACT // milliseconds, LARGEST_EXACT // UNLOWERED * refill // milliseconds)
        raise TermsOutOfRange(capacity, largest)

    @classmethod
    def parse(cls, tag: str) -> Self | None:
        """Read the terms that a bucket carries; None when they are none. Since when they count stands nowhere."""
        found = _TAG.fullmatch(tag)
        if found is None:
            return None
        generation, capacity, refill, count, unit = found.groups()
        ticks = 1 if unit == "ms" else _TICKS.get(unit, 0)
        terms = (int(capacity or refill), int(refill), int(count) * ticks)
        if 0 in terms or terms[0] * terms[2] > LARGEST_EXACT:
            return None
        return cls(*terms, 1000 if unit == "ms" else 1, Generation(int(generation), 0))

    def under(self, generation: Generation) -> Self:
        """The same terms as of a generation."""
        return replace(self, generation=generation)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Stored state of one limit and subject."""

    level: int
    """Units, at the factor in force when it was written."""
    time_ticks: int
    tag: str
    """The terms that it was written under."""
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
    OPEN = 3
    BAN = 4
    FAILED = 5


@dataclass(frozen=True, slots=True)
class Taken:
    """What one check took, or would have."""

    status: Status
    refused: int
    """Sum of 2^i over the limits that had too few tokens at the factor in force."""
    refused_at_1: int
    """The same at factor 1."""
    levels: tuple[int, ...]
    """Units left in each bucket, those of the caller's terms."""


def scale(units: int, factor: int) -> int:
    """Multiply by a factor in per mille, rounded down."""
    return units * factor // UNLOWERED


def lower_capacity(terms: Terms, factor: int, cost: int) -> int:
    """Units that a bucket holds at a factor: never fewer than the tokens that are asked for or given back."""
    return min(terms.capacity_units, max(scale(terms.capacity_units, factor), abs(cost) * terms.period_ticks))


def rescale(units: int, whole: int, new_whole: int) -> int:
    """The part of ``new_whole`` that ``units`` are of ``whole``, rounded down; exact for multiples of the whole."""
    if whole == new_whole:
        return units
    wholes, rest = divmod(units, whole)
    return wholes * new_whole + rest * _SHARES // whole * new_whole // _SHARES


def choose_terms(bucket: Bucket | None, terms: Terms, now_us: int) -> Terms:
    """The terms that a bucket is decided by: the caller's, or newer ones that it carries."""
    if bucket is None or bucket.tag == terms.tag or now_us >= bucket.expires_us:
        return terms
    carried = Terms.parse(bucket.tag)
    return terms if carried is None or carried.generation.number <= terms.generation.number else carried


def bring_over(bucket: Bucket, terms: Terms, factor: int, cost: int, now_us: int) -> Bucket | None:
    """Put a bucket of older terms under these: time before the change counts at the old rate, then the fill ratio is kept.

    Returns:
        The bucket as it was at the change, under the new terms; None when it carries no terms.
    """
    carried = Terms.parse(bucket.tag)
    if carried is None:
        return None
    before = credit(bucket, carried, factor, cost, min(now_us, terms.generation.since_us))
    return Bucket(
        rescale(before.level, carried.capacity_units, terms.capacity_units),
        -(-before.time_ticks * carried.tick_us // terms.tick_us),
        terms.tag,
        None if before.level_at_1 is None else rescale(before.level_at_1, carried.capacity_units, terms.capacity_units),
        before.remainder if carried.tick_us == terms.tick_us else 0,
        bucket.expires_us,
    )


def refill(bucket: Bucket | None, terms: Terms, factor: int, cost: int, now_us: int) -> Bucket:
    """Bring one bucket to the present.

    Args:
        bucket: As stored; None, or expired, counts as full.
        terms: That it is decided by, as ``choose_terms`` says.
        factor: Per mille, 1 to 1000.
        cost: Tokens that are asked for or given back; a factor never lowers the capacity below so many.
        now_us: Microseconds since the epoch. A clock that steps back freezes the bucket.
    """
    if bucket is not None and now_us < bucket.expires_us:
        known = bucket if bucket.tag == terms.tag else bring_over(bucket, terms, factor, cost, now_us)
        if known is not None:
            return credit(known, terms, factor, cost, now_us)
    capacity = lower_capacity(terms, factor, cost)
    return Bucket(capacity, now_us // terms.tick_us, terms.tag, terms.capacity_units if factor < UNLOWERED else None)


def credit(bucket: Bucket, terms: Terms, factor: int, cost: int, now_us: int) -> Bucket:
    """Add what time has brought to a bucket of these terms."""
    now = now_us // terms.tick_us
    capacity = lower_capacity(terms, factor, cost)
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
    *,
    is_open: bool = False,
) -> tuple[list[Bucket | None], Taken]:
    """Take from all buckets or from none; a bucket in shadow mode never decides and pays when it can.

    A cost below 0 gives back: no limit refuses it, and it fills no bucket above its capacity, at no factor. A bucket of older
    terms is brought over by any check that is not of cost 0, also by one that is refused.

    Args:
        buckets: One for each limit, None where nothing is stored.
        terms: Of each limit.
        is_shadow: Of each limit.
        costs: Whole tokens for each limit; 0 changes nothing.
        factor: Per mille, 1 to 1000.
        now_us: Microseconds since the epoch.
        is_open: The action's circuit breaker refuses the check, whatever the buckets hold.

    Returns:
        The buckets as they are to be stored, and what was taken.
    """
    chosen = [choose_terms(b, t, now_us) for b, t in zip(buckets, terms, strict=True)]
    current = [refill(b, t, factor, c, now_us) for b, t, c in zip(buckets, chosen, costs, strict=True)]
    units = [c * t.period_ticks for c, t in zip(costs, chosen, strict=True)]
    has = [b.level >= u for b, u in zip(current, units, strict=True)]
    has_at_1 = [(b.level if b.level_at_1 is None else b.level_at_1) >= u for b, u in zip(current, units, strict=True)]
    passes = not is_open and all(h or s for h, s in zip(has, is_shadow, strict=True))
    passes_at_1 = all(h or s for h, s in zip(has_at_1, is_shadow, strict=True))
    stored, levels = list(buckets), []
    for i, bucket in enumerate(current):
        after = bucket
        if passes and has[i]:
            after = replace(after, level=min(after.level - units[i], lower_capacity(chosen[i], factor, costs[i])))
        if after.level_at_1 is not None and passes_at_1 and has_at_1[i]:
            after = replace(after, level_at_1=min(after.level_at_1 - units[i], chosen[i].capacity_units))
        if after != bucket or (costs[i] and _is_brought_over(buckets[i], chosen[i], now_us)):
            stored[i] = replace(after, expires_us=_expire(after, chosen[i], factor, now_us))
        levels.append(_tell_level(after.level, chosen[i], terms[i]))
    refused_by_throttle = Status.OPEN if is_open else Status.THROTTLED
    status = Status.ALLOW if passes else refused_by_throttle if passes_at_1 else Status.LIMIT
    return stored, Taken(status, _mask(has), _mask(has_at_1), tuple(levels))


def _is_brought_over(bucket: Bucket | None, terms: Terms, now_us: int) -> bool:
    return bucket is not None and now_us < bucket.expires_us and bucket.tag != terms.tag and Terms.parse(bucket.tag) is not None


def _tell_level(level: int, chosen: Terms, terms: Terms) -> int:
    """A level in the units of the caller's terms: as many tokens."""
    if chosen is terms:
        return level
    return min(terms.capacity_units, rescale(level, chosen.period_ticks, terms.period_ticks))


def _mask(has: Sequence[bool]) -> int:
    return sum(1 << i for i, h in enumerate(has) if not h)


def keep_level(level: int, terms: Terms, now_us: int) -> Bucket:
    """A bucket that holds so many units now, at factor 1."""
    bucket = Bucket(level, now_us // terms.tick_us, terms.tag)
    return replace(bucket, expires_us=_expire(bucket, terms, UNLOWERED, now_us))


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
