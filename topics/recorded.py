"""Recorded decisions as those who look back need them: fast to read, in the order of their time, each once. Pure."""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter
from typing import Literal, TypeAlias

import msgspec

from topics.intervals import Tally

SLACK_MS = 5_000
"""How much later than others a decision may arrive and still be put in its place."""
MOST_WAITING = 200_000


class _Event(msgspec.Struct, tag_field="type", kw_only=True, gc=False):
    source: str


class Recorded(_Event, tag="decision", kw_only=True, gc=False):
    """What is needed of a :class:`topics.events.DecisionEvent` to decide or to count it again."""

    seq: int
    decided_at_ms: int
    user_id: str
    action: str
    attributes: dict[str, str] = {}
    policy: str = ""
    policy_version: str
    limits: tuple[str, ...] = ()
    outcome: Literal["allow", "deny", "ban"]
    reason: str
    degraded: bool = False
    cached: bool = False
    suppressed: int = 0
    suppressed_limits: tuple[str, ...] = ()
    cost: int = 1
    factor: int = 1000
    reported: bool = False


class Gap(_Event, tag="gap", kw_only=True, gc=False):
    """Decisions that were dropped."""

    ranges: list[tuple[int, int]]


class _Heartbeat(_Event, tag="heartbeat", gc=False):
    pass


class _Closed(_Event, tag="closed", gc=False):
    pass


Record: TypeAlias = Recorded | Gap | _Heartbeat | _Closed
decode_record = msgspec.json.Decoder(Record).decode
"""Reads one record of topic ``decisions``; ``msgspec.DecodeError`` when it is none."""


class Order:
    """Puts decisions that arrive nearly in time in the order of their time, each once."""

    def __init__(self) -> None:
        self._waiting: list[Recorded] = []
        self._seen: dict[str, Tally] = {}
        self._latest_ms = 0
        self.doubled = 0
        """Decisions that had been read before."""

    def add(self, record: Recorded) -> None:
        """Take one decision."""
        tally = self._seen.get(record.source)
        if tally is None:
            tally = self._seen[record.source] = Tally()
        before = tally.surplus
        tally.add(record.seq)
        if tally.surplus != before:
            self.doubled += 1
            return
        self._waiting.append(record)
        self._latest_ms = max(self._latest_ms, record.decided_at_ms)

    def take(self, *, is_last: bool = False) -> list[Recorded]:
        """Hand out what nothing earlier can come before any more; at the end, all."""
        waiting = self._waiting
        waiting.sort(key=_ORDER)
        count = len(waiting) if is_last else bisect_left(waiting, self._latest_ms - SLACK_MS, key=_TIME)
        count = max(count, len(waiting) - MOST_WAITING)
        self._waiting = waiting[count:]
        return waiting[:count]


_ORDER = attrgetter("decided_at_ms", "source", "seq")
_TIME = attrgetter("decided_at_ms")
