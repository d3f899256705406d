"""Quotas: how a limit is divided among data planes that count for themselves, and what each is told. Pure.

Shares are millionths of a limit, and all shares of a limit together are never more than the limit. ``lua/share_quota.lua``
divides a limit among enforcers by the same rule as an enforcer divides its part among its data planes.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from enforcer.decisions.decision import Reading
from enforcer.decisions.plan import Plan
from enforcer.limits.bucket import LARGEST_EXACT, UNLOWERED, Terms

WHOLE = 1_000_000
"""The whole of a limit."""

LEAST_DEMAND = WHOLE // 100
"""What a member that asks for nothing counts as: its next requests must not wait for a report."""
LARGEST_DEMAND = WHOLE * 1000

_FEW = 64
"""Members of a limit that are all divided anew whenever one reports."""
_LEVELLED_EVERY_S = 5.0
_NOTABLE = WHOLE // 20

_FILLS = 1000
"""Tokens that a limit's fill interval is chosen to hold, at least: a share of a thousandth is still a whole token."""
_LARGEST_UINT32 = 2**32 - 1
_LARGEST_INTERVAL_S = 10 * 365 * 86_400

Kind = Literal["allow", "deny", "bucket"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one data plane is told about one bucket."""

    kind: Kind
    """All pass, none passes, or as many as a token bucket of these terms lets."""
    max_tokens: int = 0
    tokens_per_fill: int = 0
    fill_interval_s: int = 0


ALLOW_ALL, DENY_ALL = Assignment("allow"), Assignment("deny")


@dataclass(slots=True)
class _Member:
    demand: int
    share: int = 0


@dataclass(slots=True)
class Shares:
    """The shares of one limit and subject that this enforcer hands out: together never more than ``granted``."""

    quantum: int
    """Least share that is of any use: one token of the capacity."""
    granted: int = 0
    """This enforcer's own share."""
    demand: int = 0
    """What the members ask for together."""
    _members: dict[Hashable, _Member] = field(default_factory=dict)
    _handed_out: int = 0
    _level: tuple[int, int] = (0, 0)
    _levelled_s: float = 0.0

    @property
    def members(self) -> Collection[Hashable]:
        """Who asks for a share."""
        return self._members.keys()

    def find_share(self, member: Hashable) -> int:
        """A member's share; 0 for who is none."""
        known = self._members.get(member)
        return known.share if known is not None else 0

    def ask(self, member: Hashable, demand: int) -> None:
        """Note what a member asks for, a new one too."""
        known = self._members.setdefault(member, _Member(0))
        demand = min(max(demand, LEAST_DEMAND), LARGEST_DEMAND)
        self.demand += demand - known.demand
        known.demand = demand

    def leave(self, member: Hashable) -> None:
        """Take a member off; what it holds comes back."""
        known = self._members.pop(member, None)
        if known is not None:
            self.demand -= known.demand
            self._handed_out -= known.share

    def divide(self, members: Iterable[Hashable], now_s: float) -> set[Hashable]:
        """Give these members, or all if they are few, their parts of what is granted.

        Of many, the level is found anew every few seconds, and each gets its part when it reports.

        Returns:
            The members, others than these, that now have notably less, and should be told.
        """
        is_small = len(self._members) <= _FEW
        if is_small or now_s - self._levelled_s > _LEVELLED_EVERY_S:
            self._levelled_s = now_s
            self._level = find_level([member.demand for member in self._members.values()], self.granted)
        level, extra = self._level
        asked = set(members)
        changed = self._members.keys() if is_small else asked & self._members.keys()
        changes = [(min((known := self._members[each]).demand, level) + extra - known.share, each) for each in changed]
        less = set()
        for change, each in sorted(changes, key=lambda entry: entry[0]):  # who gives back comes first
            known = self._members[each]
            self._give(known, known.share + change)
            if -change > _NOTABLE and each not in asked:
                less.add(each)
        return less

    def _give(self, member: _Member, target: int) -> None:
        free = max(0, self.granted - self._handed_out + member.share)
        share = min(target, free)
        if share < self.quantum:
            share = self.quantum if free >= self.quantum else 0
        self._handed_out += share - member.share
        member.share = share


def find_level(demands: Iterable[int], total: int) -> tuple[int, int]:
    """Divide ``total`` fairly: each gets what it asks for up to a level, and an extra when nobody asks for the rest.

    Max-min fairness: nobody gets more at the cost of one that gets less (Bertsekas and Gallager, Data Networks, 6.5.2).

    Returns:
        The level and the extra: a member's part is ``min(demand, level) + extra``.
    """
    ascending = sorted(demands)
    rest = total
    for position, wanted in enumerate(ascending):
        fair = rest // (len(ascending) - position)
        if wanted > fair:
            return fair, 0
        rest -= wanted
    return LARGEST_DEMAND, rest // max(1, len(ascending))


def find_quantum(terms: Terms) -> int:
    """The share that one token of the capacity is, rounded up."""
    return min(WHOLE, -(-WHOLE // terms.capacity))


def measure_demand(terms: Terms, requests: int, elapsed_us: int) -> int:
    """What share of the limit ``requests`` in that time would have needed."""
    return min(LARGEST_DEMAND, requests * terms.period_ticks * terms.tick_us * WHOLE // (terms.refill * max(elapsed_us, 1)))


def assign(plan: Plan, reading: Reading, shares: Sequence[int], owed: int, interval_s: float) -> Assignment:
    """Say what one data plane may let pass until its next report.

    Its bucket holds its share of what the limits' buckets hold now, or of a second's refill if that is more, and fills at its
    share of their refill at the factor in force. What it has let pass before and the buckets could not pay goes off the refill.

    Args:
        plan: The bucket's plan.
        reading: What Redis said just now; no ban.
        shares: Its share of each limit of the plan.
        owed: Requests that it let pass and that are not paid yet.
        interval_s: Until its next report.
    """
    tightest: tuple[float, int, int] | None = None
    burst = _LARGEST_UINT32
    for limit, level, share in zip(plan.limits, reading.levels, shares, strict=True):
        if limit.is_shadow:
            continue
        terms = limit.terms
        period_us = terms.period_ticks * terms.tick_us
        a_second = terms.refill * reading.factor * 1_000_000 // (UNLOWERED * period_us)
        capacity = max(1, terms.capacity * reading.factor // UNLOWERED)
        held = min(capacity, max(level // terms.period_ticks, a_second))
        burst = min(burst, max(1, held * share // WHOLE) if share else 0)
        interval = _choose_fill_interval_s(terms)
        tokens = share * reading.factor * terms.refill * interval * 1_000_000 // (WHOLE * UNLOWERED * period_us)
        tokens -= -(-owed * interval // max(1, int(interval_s)))
        if tightest is None or tokens / interval < tightest[0]:
            tightest = (tokens / interval, min(tokens, _LARGEST_UINT32), interval)
    if tightest is None:
        return ALLOW_ALL
    if tightest[1] < 1 or burst < 1:
        return DENY_ALL
    return Assignment("bucket", burst, tightest[1], tightest[2])


def _choose_fill_interval_s(terms: Terms) -> int:
    """Whole seconds in which the limit refills many tokens: Envoy knows no shorter interval, and fills continuously."""
    period_us = terms.period_ticks * terms.tick_us
    return min(max(1, -(-_FILLS * period_us // (terms.refill * 1_000_000))), _LARGEST_INTERVAL_S)


def tell_apart(assignment: Assignment, before: Assignment | None) -> Assignment:
    """Let Envoy see a change: it compares ``max_tokens`` and ``tokens_per_fill`` alone.

    Source: ``protoTokenBucketsEq`` in Envoy's ``rate_limit_quota/global_client_impl.cc``. A change of the interval alone is
    told with one token fewer.
    """
    if before is None or assignment.kind != "bucket" or before.kind != "bucket":
        return assignment
    is_alike = (assignment.max_tokens, assignment.tokens_per_fill) == (before.max_tokens, before.tokens_per_fill)
    if not is_alike or assignment.fill_interval_s == before.fill_interval_s:
        return assignment
    fewer = max(1, assignment.tokens_per_fill - 1)
    return Assignment("bucket", assignment.max_tokens, fewer, assignment.fill_interval_s)


def find_payable(plan: Plan, reading: Reading, owed: int) -> int:
    """How many of the requests that are owed every enforced bucket can pay."""
    payable = min(owed, plan.template.smallest_capacity)
    for limit, level in zip(plan.limits, reading.levels, strict=True):
        if not limit.is_shadow:
            payable = min(payable, level // limit.terms.period_ticks)
    return payable


def measure_burst(plan: Plan, shares: Sequence[int]) -> int:
    """How many requests its shares of full buckets could pay at once; what is used beyond that is paid as it is used."""
    enforced = [(limit.terms, share) for limit, share in zip(plan.limits, shares, strict=False) if not limit.is_shadow]
    return min((terms.capacity * share // WHOLE for terms, share in enforced), default=LARGEST_EXACT)


def find_excess(plan: Plan, before: Reading, now: Reading, requests: int) -> tuple[int, int]:
    """How many of a data plane's requests the limits would have refused by themselves, and which limits.

    It refuses by its share, which is less than the limit. Only what the whole limit could not have let pass, with all that its
    bucket held at the last report and got since, is held against a subject: nobody is banned for a share, a factor or an
    outage. That counts too few where requests reach several data planes, never too many.

    Args:
        plan: The bucket's plan.
        before: At the last report. No factor was in force, nor lately enough for the levels to show it.
        now: At this report.
        requests: What the data plane was asked for in between.

    Returns:
        Requests, and the sum of 2^i over the limits that would have refused that many.
    """
    if before.is_degraded or now.is_degraded or before.ban or now.ban:
        return 0, 0
    excess, mask = requests, 0
    for position, (limit, level) in enumerate(zip(plan.limits, before.levels, strict=True)):
        if limit.is_shadow:
            continue
        terms = limit.terms
        refilled = max(0, now.now_us - before.now_us) // terms.tick_us * terms.refill
        mine = requests - (level + refilled) // terms.period_ticks
        if mine > 0:
            excess, mask = min(excess, mine), mask | 1 << position
    return (excess, mask) if mask else (0, 0)


def measure_recovery_us(plan: Plan) -> int:
    """How long a bucket may bear the traces of a factor that is no longer in force: the time to full of the slowest."""
    enforced = [limit.terms for limit in plan.limits if not limit.is_shadow]
    return max((-(-terms.capacity_units // terms.refill) * terms.tick_us for terms in enforced), default=0)


def mask_limits(plan: Plan) -> int:
    """Sum of 2^i over the limits of a plan that are enforced."""
    return sum(1 << position for position, limit in enumerate(plan.limits) if not limit.is_shadow)
