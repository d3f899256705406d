"""Emit every decision, off the request path: ``offer`` numbers and keeps, a background task encodes and sends.

Each event carries ``source`` and ``seq``; what had to be dropped is announced; heartbeats tell up to where all is said. So any
reader can prove that nothing is missing (``python -m topics audit decisions``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import structlog

from enforcer.decision import Decision
from enforcer.folding import Folder
from enforcer.plan import Plan
from enforcer.producer import EmissionFailed, KafkaLog, Record
from topics.partition import choose_partitions
from topics.specs import DECISIONS, DENIALS
from topics.wire import ClosedEvent, DecisionEvent, Fold, FoldsEvent, GapEvent, HeartbeatEvent

FLUSH_S = 0.05
HEARTBEAT_S = 1.0
MOST_BUFFERED = 200_000
"""Events held while Kafka is away, about 100 MB; then the oldest allows are dropped first, a tenth at a time."""
MOST_FOLDS_PER_RECORD = 1000
"""Keeps a record of folds, each of them at most some 400 bytes, under 512 KB."""

GapReason = Literal["buffer_full", "spool_full", "spool_corrupt", "refused"]

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class EmissionStats:
    """Counts since the start; read by the metrics."""

    offered: int = 0
    acknowledged: int = 0
    dropped: int = 0
    folds: int = 0
    failures: int = 0


@dataclass(slots=True)
class Emitter:
    """Numbers, keeps and sends the events of one source. Belongs to one event loop.

    ``source`` is new with each start of the process; ``seq`` is contiguous from 1.
    """

    source: str
    kafka: KafkaLog
    folder: Folder
    stats: EmissionStats = field(default_factory=EmissionStats)
    _seq: int = 0
    _settled_seq: int = 0
    """Up to here every event is acknowledged or announced as dropped."""
    _buffer: deque[tuple[str, DecisionEvent]] = field(default_factory=deque)
    _gaps: dict[GapReason, list[int]] = field(default_factory=dict)
    _fold_numbers: dict[int, int] = field(default_factory=dict)
    _unsent_folds: dict[int, deque[FoldsEvent]] = field(default_factory=lambda: defaultdict(deque))
    _task: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def buffered(self) -> int:
        """Events that Kafka does not have yet."""
        return len(self._buffer)

    def offer(self, plan: Plan, decision: Decision) -> None:
        """Take one decision for emission. Never waits, never raises."""
        check, ban = plan.check, decision.ban
        self._seq += 1
        self.stats.offered += 1
        limits: tuple[str, ...] = ()
        shadow_limits: tuple[str, ...] = ()
        if decision.outcome == "deny" or decision.is_shadow:
            limits = tuple(s.limit.label for s in decision.limits if s.is_refused and not s.limit.is_shadow)
            shadow_limits = tuple(s.limit.label for s in decision.limits if s.is_refused and s.limit.is_shadow)
        event = DecisionEvent(
            self.source,
            self._seq,
            decision.decided_at_ms,
            check.user_id,
            check.action,
            plan.template.policy.name,
            plan.template.version,
            decision.outcome,
            decision.reason,
            1,
            check.attributes,
            limits,
            shadow_limits,
            decision.is_degraded,
            decision.is_cached,
            check.suppressed,
            check.cost,
            decision.remaining,
            decision.retry_after_ms,
            decision.factor,
            None if ban is None else ban.until_ms,
            None if ban is None else ban.verdict_id,
        )
        self._buffer.append((plan.subjects[0] if plan.subjects else "global", event))
        self.folder.add(plan, decision)
        if len(self._buffer) > MOST_BUFFERED:
            self._drop()

    def _drop(self) -> None:
        """Make room for a tenth: the oldest allows go first, then the oldest of all."""
        room = MOST_BUFFERED // 10
        kept: deque[tuple[str, DecisionEvent]] = deque()
        dropped: list[int] = []
        for entry in self._buffer:
            if len(dropped) < room and entry[1].outcome == "allow":
                dropped.append(entry[1].seq)
            else:
                kept.append(entry)
        while len(dropped) < room:
            dropped.append(kept.popleft()[1].seq)
        self._buffer = kept
        self._announce("buffer_full", dropped)

    def _announce(self, reason: GapReason, seqs: Iterable[int]) -> None:
        known = self._gaps.setdefault(reason, [])
        before = len(known)
        known.extend(seqs)
        self.stats.dropped += len(known) - before

    def start(self) -> asyncio.Task[None]:
        """Connect and send in the background, for as long as the returned task runs."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    async def close(self, timeout_s: float) -> None:
        """Send what is left and the closing events; gives up after ``timeout_s`` and says how much was lost."""
        self._stop.set()
        try:
            async with asyncio.timeout(timeout_s):
                if self._task is not None:
                    await self._task  # finishes the flush under way, then sends the rest
                await self.kafka.close()
        except TimeoutError:
            log.error("events_lost_at_exit", events=self._seq - self._settled_seq)  # noqa: TRY400 no traceback helps

    async def _run(self) -> None:
        await self.kafka.connect()
        next_heartbeat_s = 0.0
        while True:
            is_last = self._stop.is_set()
            try:
                await self._flush()
                if is_last:
                    await self._mark(ClosedEvent)
                    return
                if time.monotonic() >= next_heartbeat_s:
                    next_heartbeat_s = time.monotonic() + HEARTBEAT_S
                    await self._mark(HeartbeatEvent)
            except EmissionFailed as error:
                self.stats.failures += 1
                log.warning("kafka_failed", error=str(error))
                await self.kafka.close()
                await self.kafka.connect()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), FLUSH_S)

    async def _flush(self) -> None:
        """Send everything that is kept, and wait until Kafka has it: a heartbeat after this may speak for it."""
        settles = self._seq
        events, self._buffer = self._buffer, deque()
        gaps, self._gaps = self._gaps, {}
        self._number_folds(self.folder.take())
        decisions: dict[int, list[Record]] = defaultdict(list)
        seqs: dict[int, list[int]] = defaultdict(list)
        keys = [subject.encode() for subject, _ in events]
        chosen = choose_partitions(keys, self.kafka.partitions[DECISIONS.name])
        for key, partition, (_, event) in zip(keys, chosen, events, strict=True):
            decisions[partition].append((key, _encode(event)))
            seqs[partition].append(event.seq)
        for reason, dropped in gaps.items():
            gap = GapEvent(self.source, join_ranges(dropped), time.time_ns() // 1_000_000, reason)
            decisions[0].append((None, _encode(gap)))
        sends = [self._send_decisions(partition, records, seqs[partition]) for partition, records in decisions.items()]
        sends += [self._send_folds(partition) for partition, unsent in self._unsent_folds.items() if unsent]
        try:
            await _gather(sends)
        except EmissionFailed:
            for reason, dropped in gaps.items():  # announced once more: a reader counts a range once
                self._gaps.setdefault(reason, []).extend(dropped)
            raise
        self._settled_seq = settles

    async def _send_decisions(self, partition: int, records: list[Record], seqs: list[int]) -> None:
        try:
            await self.kafka.send(DECISIONS.name, partition, records)
        except EmissionFailed:
            self._announce("refused", seqs)
            raise
        self.stats.acknowledged += len(seqs)

    def _number_folds(self, folds: list[Fold]) -> None:
        self.stats.folds += len(folds)
        by_partition: dict[int, list[Fold]] = defaultdict(list)
        chosen = choose_partitions([fold.subject.encode() for fold in folds], self.kafka.partitions[DENIALS.name])
        for fold, partition in zip(folds, chosen, strict=True):
            by_partition[partition].append(fold)
        at_ms = time.time_ns() // 1_000_000
        for partition, mine in by_partition.items():
            for start in range(0, len(mine), MOST_FOLDS_PER_RECORD):
                number = self._fold_numbers.get(partition, 0) + 1
                self._fold_numbers[partition] = number
                record = FoldsEvent(self.source, number, at_ms, mine[start : start + MOST_FOLDS_PER_RECORD])
                self._unsent_folds[partition].append(record)

    async def _send_folds(self, partition: int) -> None:
        """Records of folds are sent until they are there, in order: the detector drops those that it has seen."""
        unsent = self._unsent_folds[partition]
        records = list(unsent)
        await self.kafka.send(DENIALS.name, partition, [(None, _encode(record)) for record in records])
        for _ in records:
            unsent.popleft()

    async def _mark(self, kind: type[HeartbeatEvent | ClosedEvent]) -> None:
        at_ms = time.time_ns() // 1_000_000
        decided = _encode(kind(self.source, self._settled_seq, at_ms))
        sends = [
            self.kafka.send(DECISIONS.name, partition, [(None, decided)])
            for partition in range(self.kafka.partitions[DECISIONS.name])
        ]
        for partition in range(self.kafka.partitions[DENIALS.name]):
            folded = _encode(kind(self.source, self._fold_numbers.get(partition, 0), at_ms))
            sends.append(self.kafka.send(DENIALS.name, partition, [(None, folded)]))
        await _gather(sends)


async def _gather(sends: Sequence[Awaitable[None]]) -> None:
    """Wait for all, then raise the first failure."""
    for result in await asyncio.gather(*sends, return_exceptions=True):
        if result is not None:
            raise result


def join_ranges(seqs: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Write numbers as runs: 1 2 3 7 becomes (1, 3) (7, 7)."""
    runs: list[tuple[int, int]] = []
    for seq in sorted(set(seqs)):
        if runs and runs[-1][1] == seq - 1:
            runs[-1] = (runs[-1][0], seq)
        else:
            runs.append((seq, seq))
    return tuple(runs)
