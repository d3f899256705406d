"""Decisions while Redis is away: what the policy says, from memory. Pure but for the state it holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import msgspec

from enforcer.decisions.decision import Ban, Reading
from enforcer.decisions.plan import Plan, Template
from enforcer.limits.bucket import UNLOWERED, Bucket, Status, Terms, keep_level, take
from enforcer.limits.globs import matches

MOST_BUCKETS = 100_000
MOST_BANS = 100_000


@dataclass(slots=True)
class Fallback:
    """Answers from this process alone, marked degraded.

    A policy's ``local`` keeps buckets of the limit divided by the number of enforcers, so that all together admit about what
    the limit allows. Bans that this process has seen hold until their end. Both memories are bounded; the one that was used
    least lately goes first.
    """

    enforcers: int
    """By how many processes the limits are shared, >= 1."""
    _buckets: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)
    _bans: OrderedDict[str, Ban] = field(default_factory=OrderedDict)

    def remember(self, ban: Ban) -> None:
        """Keep a ban that Redis reported, unless a longer one of the subject is known."""
        known = self._bans.get(ban.subject)
        if known is None or known.until_ms <= ban.until_ms:
            self._bans[ban.subject] = ban
            self._bans.move_to_end(ban.subject)
            if len(self._bans) > MOST_BANS:
                self._bans.popitem(last=False)

    def forget(self, subject: str) -> None:
        """Let a ban end that was lifted or replaced."""
        self._bans.pop(subject, None)

    def share(self, plan: Plan) -> Plan:
        """The same plan with this process's share of each limit: the terms that ``read`` decides by.

        A cost above the share of a limit asks for the whole share; one that the limit itself could never grant stays as it is.
        """
        template, costs = _share_template(plan.template, self.enforcers), plan.cost_of_each
        if any(cost > limit.terms.capacity for cost, limit in zip(costs, template.limits, strict=True)):
            costs = tuple(
                min(cost, mine.terms.capacity) if cost <= limit.terms.capacity else cost
                for cost, limit, mine in zip(costs, plan.limits, template.limits, strict=True)
            )
            return msgspec.structs.replace(plan, template=template, costs=costs)
        return msgspec.structs.replace(plan, template=template)

    def read(self, plan: Plan, now_us: int, levels: Sequence[int | None] = ()) -> Reading:
        """Decide as the script would, without Redis.

        Args:
            plan: As ``share`` returned it.
            now_us: This process's clock, microseconds since the epoch.
            levels: What the buckets of the whole limits hold by now, in their units; None, or nothing at all, where it is not
                known: a bucket that is not kept here yet then begins full.
        """
        is_refund = plan.check.cost < 0
        for subject in plan.subjects:
            ban = self._bans.get(subject)
            if ban is not None and not is_refund:
                if ban.until_ms * 1000 <= now_us:
                    del self._bans[subject]
                elif covers(ban.scope, plan.check.action):
                    return Reading(now_us, Status.BAN, ban=ban, is_degraded=True)
        terms = [limit.terms for limit in plan.limits]
        full = tuple(t.capacity_units for t in terms)
        costs = plan.cost_of_each
        is_possible = all(
            cost <= limit.terms.capacity or limit.is_shadow for cost, limit in zip(costs, plan.limits, strict=True)
        )
        if not terms or (is_possible and plan.template.without_redis == "allow"):
            return Reading(now_us, Status.ALLOW, levels=full, is_degraded=True)
        if plan.template.without_redis == "deny" and not is_refund:
            mask = sum(1 << i for i, limit in enumerate(plan.limits) if not limit.is_shadow)
            return Reading(now_us, Status.LIMIT, refused=mask, levels=(0,) * len(terms), is_degraded=True)
        stored, taken = take(
            [
                self._buckets.get(key) or (None if level is None else _share_level(level, mine, now_us))
                for key, mine, level in zip(plan.bucket_keys, terms, levels or (None,) * len(terms), strict=True)
            ],
            terms,
            [limit.is_shadow for limit in plan.limits],
            costs,
            UNLOWERED,
            now_us,
        )
        for key, bucket in zip(plan.bucket_keys, stored, strict=True):
            if bucket is not None:
                self._buckets[key] = bucket
                self._buckets.move_to_end(key)
        while len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return Reading(now_us, taken.status, refused=taken.refused, levels=taken.levels, is_degraded=True)

    def learn(self, plan: Plan, reading: Reading, now_us: int) -> None:
        """Follow Redis's word on buckets that are kept here, so that who spent there does not find them full the next time.

        A Redis that comes and goes would else grant both what it holds and what is held here, each time anew.

        Args:
            plan: What was asked of Redis.
            reading: What it saw; without a ban.
            now_us: This process's clock, microseconds since the epoch.
        """
        for key, limit, level in zip(plan.bucket_keys, plan.limits, reading.levels, strict=True):
            if key in self._buckets:
                self._buckets[key] = _share_level(level, share_terms(limit.terms, self.enforcers), now_us)

    @property
    def is_used(self) -> bool:
        """Whether buckets are kept here: since start, Redis was away."""
        return bool(self._buckets)


@lru_cache(maxsize=4096)
def _share_template(template: Template, enforcers: int) -> Template:
    return replace(
        template, limits=tuple(replace(limit, terms=share_terms(limit.terms, enforcers)) for limit in template.limits)
    )


def share_terms(terms: Terms, enforcers: int) -> Terms:
    """One process's share: the capacity divided (at least 1, unless it is 0), the refill period multiplied."""
    capacity = max(min(1, terms.capacity), terms.capacity // enforcers)
    return replace(terms, capacity=capacity, period_ticks=terms.period_ticks * enforcers)


def _share_level(level: int, mine: Terms, now_us: int) -> Bucket:
    """This process's share of what a limit's bucket holds: as many units, for a token of the share is so many more of them."""
    return keep_level(min(mine.capacity_units, level), mine, now_us)


def covers(scope: tuple[str, ...], action: str) -> bool:
    """Whether a ban's globs cover an action; ``*`` stands for any run of characters."""
    return any(glob in {"*", action} or matches(glob.split("*"), action) for glob in scope)
