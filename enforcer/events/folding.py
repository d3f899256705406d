"""Whom a decision counts against. Pure.

A refusal counts for kind K only if a limit whose ``per`` contains K refused it at factor 1, so nobody is counted against for
a limit that somebody else drained; banned, throttled, open, shadowed and degraded refusals never count. Denials that a client
answered from its memory count by the limits that had refused them, whatever became of the check that tells of them.
"""

from __future__ import annotations

from functools import lru_cache

from enforcer.decisions.decision import Decision
from enforcer.decisions.plan import Plan, Template
from enforcer.limits.check import Check
from enforcer.limits.policy import Limit
from topics.folding import Folds


class Folder(Folds):
    """Folds decisions as they are made."""

    def add(self, plan: Plan, decision: Decision) -> None:
        """Count one decision: a refusal into its folds, an admission for subjects that were refused lately."""
        limits_named = plan.check.suppressed_limits
        if limits_named:
            for slot, limit in _blame(plan.template, _find_limits(plan.template, limits_named)):
                self._count(plan.subjects[slot], limit, plan.check, decision.decided_at_ms, plan.check.suppressed)
        if decision.outcome == "allow":
            if self._admitted and plan.check.cost > 0:
                for subject in plan.subjects:
                    self.admit(subject, plan.check.action)
            return
        if decision.reason != "limit" or decision.is_degraded:
            return
        count = 1 if limits_named else 1 + plan.check.suppressed
        for slot, limit in _blame(plan.template, decision.refused_at_1):
            self._count(plan.subjects[slot], limit, plan.check, decision.decided_at_ms, count)

    def _count(self, subject: str, limit: Limit, check: Check, at_ms: int, count: int) -> None:
        self.count(subject, check.action, limit.policy, limit.name, at_ms, count, check.user_id, check.attributes)


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
