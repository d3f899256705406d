"""Remember refusals that are still certain, so that a hammering abuser costs Redis about one call a second. Pure.

A limit's refusal is a promise: others take tokens, so no check of at least that cost passes before its retry-after, unless a
refund comes. An entry counts from before the call was sent and ends after a second at the latest, which is what correctness
rests on: what is published about a change ends it sooner, but may be lost, and a refund is not published. Refusals by a
throttle factor are never kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from enforcer.decisions.decision import Ban, Reading
from enforcer.decisions.fallback import covers
from enforcer.decisions.plan import Plan
from enforcer.limits.bucket import UNLOWERED, Status, measure_wait_us

Value = TypeVar("Value")

LONGEST_S = 1.0
MOST_ENTRIES = 20_000
UNKNOWN_LEVEL = -1


class _Refusal(msgspec.Struct, frozen=True, gc=False):
    cost: int
    """Least cost that was refused."""
    tag: str
    level: int
    now_us: int
    """Redis time of the level."""
    sent_s: float
    until_s: float


class _KnownBan(msgspec.Struct, frozen=True, gc=False):
    ban: Ban
    now_us: int
    sent_s: float
    until_s: float


@dataclass(slots=True)
class Refusals:
    """What is known to be refused. Bounded: the entry that was made first goes first. Times are of one monotonic clock."""

    hits: int = 0
    _refused: OrderedDict[str, _Refusal] = field(default_factory=OrderedDict)
    _banned: OrderedDict[str, _KnownBan] = field(default_factory=OrderedDict)
    _changed: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def remember(self, plan: Plan, reading: Reading) -> None:
        """Keep what a reading of Redis proves."""
        now_us, sent_s = reading.now_us, reading.sent_s
        if reading.ban is not None:
            until_s = sent_s + min(LONGEST_S, (reading.ban.until_ms * 1000 - now_us) / 1e6)
            _keep(self._banned, reading.ban.subject, _KnownBan(reading.ban, now_us, sent_s, until_s))
            return
        if reading.status != Status.LIMIT or reading.factor != UNLOWERED:
            return
        costs = plan.cost_of_each
        for i, key in enumerate(plan.bucket_keys):
            limit, cost = plan.limits[i], costs[i]
            if not reading.refused_at_1 >> i & 1 or limit.is_shadow:
                continue
            known = self._refused.get(key)
            if known is not None and known.cost < cost and known.until_s > sent_s:
                continue
            level = reading.levels[i]
            wait_us = measure_wait_us(level, limit.terms, UNLOWERED, cost * limit.terms.period_ticks, now_us)
            until_s = sent_s + min(LONGEST_S, wait_us / 1e6)
            _keep(self._refused, key, _Refusal(cost, limit.terms.tag, level, now_us, sent_s, until_s))

    def find(self, plan: Plan, now_s: float) -> Reading | None:
        """Tell how a check is certainly refused, or None: ask Redis.

        Levels of limits that nothing is known of are ``UNKNOWN_LEVEL``.
        """
        if self._banned and plan.check.cost >= 0:
            for subject in plan.subjects:
                banned = self._banned.get(subject)
                if banned is not None and now_s < banned.until_s and covers(banned.ban.scope, plan.check.action):
                    self.hits += 1
                    now_us = banned.now_us + int((now_s - banned.sent_s) * 1e6)
                    return Reading(now_us, Status.BAN, ban=banned.ban, is_cached=True)
        if not self._refused:
            return None
        refused, keys, costs, first = self._refused, plan.keys, plan.costs, len(plan.subjects)
        mask, now_us = 0, 0
        levels = []
        for i, limit in enumerate(plan.template.limits):
            levels.append(UNKNOWN_LEVEL)
            known = refused.get(keys[first + i])
            if known is None or now_s >= known.until_s or (costs[i] if costs else plan.check.cost) < known.cost:
                continue
            terms = limit.terms
            if known.tag != terms.tag or (self._changed and self._has_changed(plan, known.sent_s)):
                continue
            mask |= 1 << i
            elapsed_us = int((now_s - known.sent_s) * 1e6)
            now_us = max(now_us, known.now_us + elapsed_us)
            levels[i] = known.level + elapsed_us // terms.tick_us * terms.refill
        if not mask:
            return None
        self.hits += 1
        return Reading(now_us, Status.LIMIT, refused=mask, refused_at_1=mask, levels=tuple(levels), is_cached=True)

    def estimate(self, plan: Plan, now_s: float) -> tuple[int | None, ...]:
        """Tell what the buckets that refused lately hold at most by now, as if none had been taken since; None: not known.

        Units, in the order of the plan's limits. What others took in the meantime is not known here.
        """
        levels: list[int | None] = []
        for key, limit in zip(plan.bucket_keys, plan.limits, strict=True):
            known = self._refused.get(key)
            if known is None or known.tag != limit.terms.tag:
                levels.append(None)
            else:
                ticks = int((now_s - known.sent_s) * 1e6) // limit.terms.tick_us
                levels.append(min(limit.terms.capacity_units, known.level + ticks * limit.terms.refill))
        return tuple(levels)

    def _has_changed(self, plan: Plan, since_s: float) -> bool:
        return any(self._changed.get(subject, since_s) > since_s for subject in plan.subjects)

    def forget(self, subject: str, now_s: float) -> None:
        """Something that is held against the subject has changed: whatever is known of it may be wrong."""
        self._banned.pop(subject, None)
        _keep(self._changed, subject, now_s)

    def clear(self) -> None:
        """Forget everything: changes may have been missed."""
        self._refused.clear()
        self._banned.clear()


def _keep(entries: OrderedDict[str, Value], key: str, value: Value) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > MOST_ENTRIES:
        entries.popitem(last=False)
