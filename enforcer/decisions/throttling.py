"""What throttles an action: a factor on its limits, and a circuit breaker that few probes pass. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from zlib import crc32

from enforcer.decisions.plan import Plan
from enforcer.limits.bucket import UNLOWERED

CLOSED = 1000


class Throttling(NamedTuple):
    """What is in force for one action."""

    per_mille: int
    """The factor."""
    probes: int
    """Checks per mille that pass the circuit breaker; ``CLOSED`` where it is closed."""
    tick_ms: int
    """Names the tick that it was set for: each tick has other probes, the same on every enforcer."""


def find_factor(plan: Plan, throttled: Mapping[str, Throttling]) -> int:
    """The factor that a check is asked under, per mille; below 0 the action is open, and the check is no probe.

    Reads and refunds are never refused by a circuit breaker.
    """
    throttling = throttled.get(plan.template.action)
    if throttling is None:
        return UNLOWERED
    if throttling.probes < CLOSED and plan.check.cost > 0 and not is_probe(plan.subjects, throttling):
        return -throttling.per_mille
    return throttling.per_mille


def is_probe(subjects: tuple[str, ...], throttling: Throttling) -> bool:
    """Whether a subject's checks pass an open action in this tick, by a stable hash of both: a retry is answered alike."""
    return crc32(f"{throttling.tick_ms} {' '.join(subjects)}".encode()) % 1000 < throttling.probes
