"""Calls of ``check.lua`` as its header says, written apart from the enforcer's own packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enforcer.limits.bucket import UNLOWERED, Bucket, Terms


@dataclass(frozen=True)
class ScriptCheck:
    bucket_keys: tuple[str, ...]
    terms: tuple[Terms, ...]
    cost: int | tuple[int, ...] = 1
    """For each limit, or the same for all."""
    factor: int = UNLOWERED
    shadows: tuple[bool, ...] = ()
    abuse_keys: tuple[str, ...] = ()
    action: str = "login"

    @property
    def costs(self) -> tuple[int, ...]:
        return (self.cost,) * len(self.terms) if isinstance(self.cost, int) else self.cost

    @property
    def is_shadow(self) -> tuple[bool, ...]:
        return self.shadows or (False,) * len(self.terms)


def pack(checks: Sequence[ScriptCheck], now_us: int | None = None, deadline_us: int = 0) -> tuple[list[str], list[str | int]]:
    """KEYS and ARGV; ``now_us`` None is the server's own clock."""
    terms = list(dict.fromkeys(terms for check in checks for terms in check.terms))
    keys: list[str] = []
    argv: list[str | int] = ["" if now_us is None else now_us, deadline_us, len(terms)]
    for each in terms:
        argv += (each.capacity_units, each.refill, each.period_ticks, each.tick_us, each.tag, each.generation.since_us)
    argv.append(len(checks))
    for check in checks:
        keys += (*check.abuse_keys, *check.bucket_keys)
        cost = check.cost if isinstance(check.cost, int) else ",".join(map(str, check.cost))
        argv += (check.action, cost, check.factor, len(check.abuse_keys), len(check.terms))
        for each, is_shadow in zip(check.terms, check.is_shadow, strict=True):
            index = terms.index(each) + 1
            argv.append(-index if is_shadow else index)
    argv += range(1, len(checks) + 1)
    return keys, argv


def write_value(bucket: Bucket) -> str:
    """The string that the script stores for a bucket of the specification."""
    value = f"{bucket.level} {bucket.time_ticks} {bucket.tag}"
    if bucket.level_at_1 is None and bucket.remainder == 0:
        return value
    return f"{value} {bucket.level if bucket.level_at_1 is None else bucket.level_at_1} {bucket.remainder}"
