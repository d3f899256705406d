"""A check over several slots of a Redis Cluster on its way: asked slot after slot, given back where one refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from enforcer.decisions.decision import Reading
from enforcer.decisions.plan import Plan
from enforcer.stores.cluster_plan import Part, give_back, judge_unasked, merge_readings, read_only
from enforcer.stores.store import GRACE_S, Answer, Entry, RedisStore


class PartedCheck:
    """One check: ``start`` it, and its caller is answered once.

    Parts that cost nothing, which are there for the bans of a subject, are read at once. The others are asked in their order;
    where one refuses, those before it are given back and those after it are read.
    """

    def __init__(self, parts: Sequence[Part], nodes: Sequence[RedisStore], entry: Entry) -> None:
        """Prepare.

        Args:
            parts: Of the check, in the order of their slots.
            nodes: The masters of these slots.
            entry: The whole check, and its caller.
        """
        self._parts = parts
        self._nodes = nodes
        self._entry = entry
        self._unasked = [place for place, part in enumerate(parts) if part.takes]
        self._taking = -1
        self._only_read: set[int] = set()
        self._readings: list[Reading | None] = [None] * len(parts)
        self._waiting = len(parts)
        self._is_refused = False
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self, timeout_s: float) -> None:
        """Ask. The answer comes within the timeout: what is known only later is dropped, and stays spent."""
        self._timer = asyncio.get_running_loop().call_later(timeout_s + GRACE_S, self._finish, None)
        first = set(self._unasked)
        self._take_next()
        for place, part in enumerate(self._parts):
            if place not in first:
                self._ask(place, part.plan)

    def _take_next(self) -> None:
        if self._unasked:
            self._taking = self._unasked.pop(0)
            self._ask(self._taking, self._parts[self._taking].plan)

    def _ask(self, place: int, plan: Plan) -> None:
        if not self._is_over:
            self._nodes[place].take(plan, self._entry[1], lambda _plan, _answer, reading: self._receive(place, reading))

    def _receive(self, place: int, reading: Reading | None) -> None:
        if self._is_over:
            return
        if reading is None:
            self._finish(None)
            return
        if place in self._only_read:
            reading = judge_unasked(self._parts[place], reading)
        self._readings[place] = reading
        self._waiting -= 1
        self._is_refused = self._is_refused or bool(reading.status)
        if self._is_refused:
            unasked, self._unasked = self._unasked, []
            self._only_read.update(unasked)
            for other in unasked:
                self._ask(other, read_only(self._parts[other]))
        elif place == self._taking:
            self._take_next()
        if not self._waiting:
            self._conclude()

    def _conclude(self) -> None:
        readings = []
        for place, (part, reading) in enumerate(zip(self._parts, self._readings, strict=True)):
            assert reading is not None  # noqa: S101 nobody is waited for any more
            if self._is_refused and part.takes and not reading.status and place not in self._only_read:
                refund, reading = give_back(part, reading)  # noqa: PLW2901 what is told is what is left
                self._nodes[place].take(refund, self._entry[1], _ignore_reading)
            readings.append(reading)
        self._finish(merge_readings(self._entry[0], self._parts, readings))

    def _finish(self, reading: Reading | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        plan, answer, receive = self._entry
        receive(plan, answer, reading)


def _ignore_reading(_plan: Plan, _answer: Answer, _reading: Reading | None) -> None:
    """A refund's: that it came too late is known from ``stats.late`` alone."""
