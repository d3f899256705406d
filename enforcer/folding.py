"""Fold refusals: those of one flush that count against one subject by one limit become one record. Pure.

A refusal counts for kind K only if a limit whose ``per`` contains K refused it at factor 1, so nobody is counted against for
a limit that somebody else drained; banned, throttled, open, shadowed and degraded refusals never count. Denials that a client
answered from its memory count by the limits that had refused them, whatever became of the check that tells of them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache

from enforcer.check import Check
from enforcer.decision import Decision
from enforcer.plan import Plan, Template
from enforcer.policy import Limit
from topics.wire import Fold

MOST_HASHES = 64
MOST_REFUSED = 50_000
"""Subjects whose admits are counted: those refused lately."""

MOST_OPEN = 100_000
"""Folds held while Kafka is away; further refusals of other subjects are then not counted against anybody."""
_LONGEST_MS = 1000
"""A fold never spans two seconds, also when flushes are late: windows need to know when."""

Key = tuple[str, str, Limit, int]
"""Subject, action, limit, second."""


def hash_text(text: str) -> int:
    """48 bits of BLAKE2b: tells texts apart in counts of distinct ones, and stays exact in JSON."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest())


@dataclass(slots=True)
class _Open:
    count: int
    admitted: int
    first_ms: int
    last_ms: int
    attributes: dict[str, str]
    users: set[int]


@dataclass(slots=True)
class Folder:
    """Folds decisions until they are taken. Holds at most ``MOST_REFUSED`` counts of admits; the oldest go first."""

    foldable: tuple[str, ...] = ()
    """Attributes to keep where all the refusals of a fold share them."""
    uncounted: int = 0
    """Refusals that no fold was left for."""
    _open: dict[Key, _Open] = field(default_factory=dict)
    _admitted: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, plan: Plan, decision: Decision) -> None:
        """Count one decision: a refusal into its folds, an admission for subjects that were refused lately."""
        limits_named = plan.check.suppressed_limits
        if limits_named:
            for slot, limit in _blame(plan.template, _find_limits(plan.template, limits_named)):
                self._count(plan.subjects[slot], limit, plan.check, decision.decided_at_ms, plan.check.suppressed)
        if decision.outcome == "allow":
            if self._admitted and plan.check.cost > 0:
                for subject in plan.subjects:
                    key = (subject, plan.check.action)
                    if key in self._admitted:
                        self._admitted[key] += 1
            return
        if decision.reason != "limit" or decision.is_degraded:
            return
        count = 1 if limits_named else 1 + plan.check.suppressed
        for slot, limit in _blame(plan.template, decision.refused_at_1):
            self._count(plan.subjects[slot], limit, plan.check, decision.decided_at_ms, count)

    def _count(self, subject: str, limit: Limit, check: Check, at_ms: int, count: int) -> None:
        key = (subject, check.action, limit, at_ms // _LONGEST_MS)
        attributes = (
            {name: check.attributes[name] for name in self.foldable if name in check.attributes} if self.foldable else {}
        )
        fold = self._open.get(key)
        if fold is None:
            if len(self._open) >= MOST_OPEN:
                self.uncounted += count
                return
            admits = (subject, check.action)
            fold = _Open(count, self._admitted.pop(admits, 0), at_ms, at_ms, attributes, set())
            self._open[key] = fold
            self._admitted[admits] = 0
            if len(self._admitted) > MOST_REFUSED:
                self._admitted.popitem(last=False)
        else:
            fold.count += count
            if at_ms < fold.first_ms:  # decisions may be told out of order, seldom
                fold.first_ms = at_ms
            elif at_ms > fold.last_ms:
                fold.last_ms = at_ms
            if fold.attributes != attributes:
                fold.attributes = dict(fold.attributes.items() & attributes.items())
        if not subject.startswith("user=") and len(fold.users) < MOST_HASHES:
            fold.users.add(hash_text(check.user_id))

    def take(self) -> list[Fold]:
        """Hand out the folds since the last call, and begin anew."""
        folds = [
            Fold(
                subject,
                action,
                limit.policy,
                limit.name,
                fold.count,
                fold.first_ms,
                fold.last_ms,
                fold.admitted,
                tuple(sorted(fold.users)),
                attributes=fold.attributes,
            )
            for (subject, action, limit, _), fold in self._open.items()
        ]
        self._open.clear()
        return folds


@lru_cache(maxsize=4096)
def _blame(template: Template, refused_at_1: int) -> tuple[tuple[int, Limit], ...]:
    """Whom a refusal counts against, by slot, and for which limit: the first that refused and is about them."""
    blamed: dict[int, Limit] = {}
    for i, limit in enumerate(template.limits):
        if refused_at_1 >> i & 1 and not limit.is_shadow:
            for slot in template.buckets[i].slots:
                if slot < len(template.kinds):  # the others are attributes: nobody
                    blamed.setdefault(slot, limit)
    return tuple(sorted(blamed.items(), key=lambda item: item[0]))


@lru_cache(maxsize=4096)
def _find_limits(template: Template, labels: tuple[str, ...]) -> int:
    """Sum of 2^i over the limits of these labels; those that the policies do not have any more are left out."""
    return sum(1 << i for i, limit in enumerate(template.limits) if limit.label in labels)
