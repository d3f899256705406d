"""Count what is admitted, per action and tick: how much of their limits the active subjects use. Pure.

The adaptive throttle needs it to know how far below the limits the load is. A policy's narrowest limit in force stands for it:
each of its buckets that admitted something is an active subject, and brings its refill rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from enforcer.decisions.plan import Plan, Template

MOST_TEMPLATES = 4096
"""Distinct actions are the callers' choice: past this many in one tick further ones are not counted."""
MOST_BUCKETS = 200_000
"""Different buckets counted in one tick, about 15 MB; past this active subjects are too few, never too many."""


@dataclass(slots=True)
class _Load:
    action: str
    position: int | None
    """Of the bucket among the plan's keys, from the end."""
    refill_milli_per_s: int
    priority: int
    admitted_tokens: int = 0
    buckets: set[int] = field(default_factory=set)
    """Hashes of their keys."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was admitted of one action in one tick."""

    action: str
    admitted_tokens: int
    active_subjects: int
    refill_milli_per_s: int
    """Of the active subjects together."""
    priority: int = 5
    """Of the policy."""


@dataclass(slots=True)
class Loads:
    """The current tick."""

    _loads: dict[Template, _Load] = field(default_factory=dict)
    _room: int = MOST_BUCKETS

    def add(self, plan: Plan) -> None:
        """Count one admission."""
        load = self._loads.get(plan.template)
        if load is None:
            if len(self._loads) >= MOST_TEMPLATES:
                return
            load = self._loads[plan.template] = _open_load(plan.template)
        load.admitted_tokens += plan.check.cost
        if load.position is not None:
            bucket = hash(plan.keys[load.position])
            if bucket not in load.buckets and self._room:
                load.buckets.add(bucket)
                self._room -= 1

    def take(self) -> list[Load]:
        """Hand out the tick's loads by action, and begin the next tick."""
        merged: dict[str, Load] = {}
        for load in self._loads.values():
            before = merged.get(load.action, Load(load.action, 0, 0, 0, load.priority))
            merged[load.action] = Load(
                load.action,
                before.admitted_tokens + max(0, load.admitted_tokens),  # more may be given back than is taken
                before.active_subjects + len(load.buckets),
                before.refill_milli_per_s + load.refill_milli_per_s * len(load.buckets),
                before.priority,
            )
        self._loads.clear()
        self._room = MOST_BUCKETS
        return list(merged.values())


def _open_load(template: Template) -> _Load:
    enforced = [i for i, limit in enumerate(template.limits) if not limit.is_shadow]
    if not enforced:
        return _Load(template.action, None, 0, template.policy.priority)
    position = enforced[-1]  # a policy's limits stand widest first
    terms = template.limits[position].terms
    refill_milli_per_s = terms.refill * 10**9 // (terms.period_ticks * terms.tick_us)
    return _Load(template.action, position - len(template.limits), refill_milli_per_s, template.policy.priority)
