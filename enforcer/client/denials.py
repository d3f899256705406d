"""The client's memory of denials: what is still certain needs no call. Pure.

A limit's denial is a promise: others only take tokens, so no check of at least that cost passes before its retry-after. It is
kept for a second at most, so a lift, a reset or a reload is in force here within that second; bans, throttles and what was
answered without asking Redis are never kept. What is answered from here is counted, and travels with the next check that is
sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from enforcer.client.decision import Decision, LimitStatus

LONGEST_S = 1.0
MOST_ENTRIES = 10_000
"""The entry that was made first goes first, with what it counted: whoever makes so many would be forgotten anyway."""
OLDEST_COUNT_S = 5.0
"""What was counted longer ago would be held against the subject at a time when it did nothing: it is dropped."""
MOST_SUPPRESSED = 1_000_000
UNLOWERED_PER_MILLE = 1000

Key: TypeAlias = tuple[str, str, tuple[tuple[str, str], ...]]
"""User, action, and attributes in order."""


def make_key(user_id: str, action: str, attributes: Mapping[str, str]) -> Key:
    """Name what has buckets of its own, whatever the policy is."""
    return user_id, action, tuple(sorted(attributes.items()))


@dataclass(slots=True)
class _Entry:
    decision: Decision
    sent_s: float
    until_s: float
    limits: tuple[str, ...]
    suppressed: int = 0
    suppressed_s: float = 0.0


@dataclass(slots=True)
class Denials:
    """What is known to be denied. Times are of one monotonic clock. Not safe for several threads at once."""

    _entries: OrderedDict[Key, _Entry] = field(default_factory=OrderedDict)

    def find(self, key: Key, cost: int, now_s: float) -> Decision | None:
        """Tell how a check is certainly denied, and count it; None: ask."""
        entry = self._entries.get(key)
        if entry is None or now_s >= entry.until_s or cost < entry.decision.cost:
            return None
        entry.suppressed = min(entry.suppressed + 1, MOST_SUPPRESSED)
        entry.suppressed_s = now_s
        elapsed_ms = int((now_s - entry.sent_s) * 1000)
        return replace(
            entry.decision,
            cost=cost,
            limits=tuple([_let_pass(limit, elapsed_ms) for limit in entry.decision.limits]),
            retry_after_ms=max(1, entry.decision.retry_after_ms - elapsed_ms),
            is_remembered=True,
        )

    def take_suppressed(self, key: Key, now_s: float) -> tuple[int, tuple[str, ...]]:
        """Hand out, once, how many checks of this key were denied from memory since its last call, and by which limits.

        If the call that carries it fails they are lost: counted twice they could ban somebody.
        """
        entry = self._entries.get(key)
        if entry is None:
            return 0, ()
        suppressed, entry.suppressed = entry.suppressed, 0
        if now_s >= entry.until_s:
            del self._entries[key]
        if not suppressed or now_s - entry.suppressed_s > OLDEST_COUNT_S:
            return 0, ()
        return suppressed, entry.limits

    def remember(self, key: Key, decision: Decision, sent_s: float) -> None:
        """Keep what an answer proves.

        Args:
            key: Of the check.
            decision: The answer; only a limit's denial at factor 1, fresh from Redis, is kept.
            sent_s: From before the call was sent.
        """
        if (
            decision.outcome != "deny"
            or decision.reason != "limit"
            or decision.is_degraded
            or decision.is_cached  # it may be a second old already
            or decision.factor_per_mille != UNLOWERED_PER_MILLE
        ):
            return
        # A wait is told in whole milliseconds, rounded up.
        until_s = sent_s + min(LONGEST_S, (decision.retry_after_ms - 1) / 1000)
        known = self._entries.get(key)
        if known is not None and known.until_s > sent_s and known.decision.cost < decision.cost:
            return
        limits = tuple([limit.label for limit in decision.limits if limit.is_refused and not limit.is_shadow])
        self._entries[key] = _Entry(decision, sent_s, until_s, limits)
        self._entries.move_to_end(key)
        if len(self._entries) > MOST_ENTRIES:
            self._entries.popitem(last=False)


def _let_pass(limit: LimitStatus, elapsed_ms: int) -> LimitStatus:
    return replace(
        limit,
        retry_after_ms=max(1, limit.retry_after_ms - elapsed_ms) if limit.is_refused else limit.retry_after_ms,
        reset_after_ms=max(0, limit.reset_after_ms - elapsed_ms),
    )
