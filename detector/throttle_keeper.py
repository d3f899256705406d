"""Keep the throttle of every action whose outcomes this process reads: ticks in, factors and their audit out."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from detector.abuse_store import RedisAway
from detector.factor_store import InForce
from detector.outcome_ticks import Ticks, decode_outcomes
from detector.publisher import KafkaAway, Notice
from detector.rules import Rules, Throttle
from detector.throttle import State, Terms, Tick, advance, describe
from lua.keys import name_subject
from topics.events import VerdictEvent

OLDEST_TICK_MS = 30_000
"""A detector that catches up throttles nobody for what is over. Wide, for the clocks of two machines may differ."""
MOST_ACTIONS = 4096
"""Followed at once; actions are the callers' choice."""
MOST_UNTOLD = 10_000
FORGOTTEN_AFTER = 600
"""Silent ticks after which an action that is not throttled is forgotten."""

log = structlog.get_logger("detector")

Tell = Callable[[Sequence[Notice]], Awaitable[None]]


class Factors(Protocol):
    """Where factors are put in force; see :class:`detector.factor_store.FactorStore`."""

    async def read(self, action: str) -> tuple[int, int]:
        """Factor and probes in force, per mille."""

    async def put(self, action: str, factor: int, probes: int) -> InForce:
        """Put them in force, or learn what another has put."""


@dataclass(slots=True)
class _Partition:
    ticks: Ticks = field(default_factory=Ticks)
    states: dict[str, State] = field(default_factory=dict)
    offset: int = -1


class ThrottleKeeper:
    """The controllers of all actions of the partitions that are read here. Belongs to one event loop.

    Never waits for long: while Redis is away factors end by themselves, and while Kafka is away what is to be told is kept.
    """

    def __init__(self, rules: Rules, factors: Factors, tell: Tell) -> None:
        self._rules = rules
        self._factors = factors
        self._tell = tell
        self._partitions: dict[int, _Partition] = {}
        self._untold: deque[Notice] = deque(maxlen=MOST_UNTOLD)

    @property
    def throttled(self) -> int:
        """Actions whose limits are lowered."""
        return sum(not state.is_resting for each in self._partitions.values() for state in each.states.values())

    @property
    def offsets(self) -> dict[int, int]:
        """Offset of the last record that was followed, by partition."""
        return {partition: each.offset for partition, each in self._partitions.items() if each.offset >= 0}

    def keep(self, partitions: Collection[int]) -> None:
        """Forget all partitions but these: others follow them now."""
        self._partitions = {number: each for number, each in self._partitions.items() if number in partitions}

    async def follow(self, partition: int, offset: int, value: bytes | None, *, taken_ms: int, now_ms: int) -> None:
        """Take one record into account.

        Args:
            partition: Where it lies.
            offset: Where it lies.
            value: The record.
            taken_ms: When the broker took it.
            now_ms: This process's clock.

        Raises:
            UndecodableRecord: Set it aside; it counts as followed.
        """
        each = self._partitions.setdefault(partition, _Partition())
        each.offset = offset
        ended = each.ticks.add(decode_outcomes(value), taken_ms)
        if ended is not None and now_ms - taken_ms <= OLDEST_TICK_MS:
            try:
                await self._control(each.states, ended, taken_ms)
            except RedisAway as error:
                log.warning("throttle_not_renewed", error=str(error))
            await self._tell_untold()

    async def _control(self, states: dict[str, State], ended: dict[str, Tick], now_ms: int) -> None:
        for action in {**states, **ended}:
            entry = self._rules.find_throttle(action)
            if entry is None or (action not in states and len(states) >= MOST_ACTIONS):
                continue
            tick, terms = ended.get(action, Tick(now_ms)), compile_terms(entry)
            before = states.get(action)
            if before is None:
                factor, probes = await self._factors.read(action)
                before = State(factor=factor / 1000, probes=probes)
            after = advance(before, tick, terms)
            states[action] = after
            if not (before.is_resting and after.is_resting):
                states[action] = await self._put(action, before, after, tick, terms)
            elif after.silent > FORGOTTEN_AFTER:
                del states[action]

    async def _put(self, action: str, before: State, after: State, tick: Tick, terms: Terms) -> State:
        in_force = await self._factors.put(action, after.per_mille, after.probes)
        if not in_force.is_ours:
            log.warning("throttle_held_by_another", action=action, factor=in_force.factor, probes=in_force.probes)
            return replace(after, factor=in_force.factor / 1000, probes=in_force.probes)
        if (after.per_mille, after.probes) != (before.per_mille, before.probes):
            verdict = make_event(action, before, after, tick, terms, in_force.now_ms, self._rules.digest)
            self._untold.append(Notice(verdict, b""))
            log.info("throttle", action=action, factor=after.per_mille, probes=after.probes, reason=verdict.reason)
        return after

    async def _tell_untold(self) -> None:
        notices = list(self._untold)
        if notices:
            try:
                await self._tell(notices)
            except KafkaAway as error:
                log.warning("throttle_not_told", waiting=len(notices), error=str(error))
            else:
                self._untold.clear()


def compile_terms(entry: Throttle) -> Terms:
    """Give an entry of the document as the law takes it."""
    return Terms(
        lowest_us=entry.lowest_latency * 1000,
        highest_us=entry.highest_latency * 1000,
        most_errors=entry.most_errors / 1000,
        floor=entry.floor / 1000,
    )


def make_event(
    action: str, before: State, after: State, tick: Tick, terms: Terms, applied_at_ms: int, version: str
) -> VerdictEvent:
    """Write the audit's entry of one change; the same change of the same tick has the same name."""
    subject = name_subject("action", action)
    parts = (subject, str(tick.at_ms), str(after.per_mille), str(after.probes))
    if after.is_open:
        change = f"open, {after.probes / 10:g} % of the checks pass as probes"
    elif before.is_open:
        change = f"closed, at factor {after.per_mille / 1000:g}"
    else:
        change = f"factor {before.per_mille / 1000:g} to {after.per_mille / 1000:g}"
    return VerdictEvent(
        verdict_id=hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest(),
        subject=subject,
        penalty="throttle",
        result="applied",
        rule="throttle",
        rule_version=version,
        at_ms=tick.at_ms,
        applied_at_ms=applied_at_ms,
        scope=(action,),
        factor=after.per_mille,
        reason=f"{change}: {describe(before, tick, terms)}",
    )
