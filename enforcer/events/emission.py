"""Emit every decision, off the request path: ``offer`` numbers and keeps, a background task encodes and sends.

Each event carries ``source`` and ``seq``; what had to be dropped is announced; heartbeats tell up to where all is said. So any
reader can prove that nothing is missing (``python -m topics audit decisions``). While Kafka is away events wait in memory, then
on disk.
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

from enforcer.decisions.decision import Decision
from enforcer.decisions.plan import Plan
from enforcer.events.decision_events import encode_event, key_event
from enforcer.events.fold_records import FoldRecords
from enforcer.events.folding import Folder
from enforcer.events.loads import Loads
from enforcer.events.numbered_records import NumberedRecords
from enforcer.events.outcome_records import OutcomeRecords
from enforcer.events.outcomes import Outcomes
from enforcer.events.producer import EmissionFailed, KafkaLog
from enforcer.events.spool import LARGEST_SEGMENT_RECORDS, Spool, SpoolCorrupt, Spooled, find_abandoned
from topics.partition import choose_partitions
from topics.specs import DECISIONS, DENIALS, OUTCOMES
from topics.wire import ClosedEvent, GapEvent, HeartbeatEvent

FOLD_S = 0.05
"""How long refusals are folded: the detector sees them that much later."""
FLUSH_S = 0.2
"""How long decisions linger: a batch costs Kafka's client as much as a hundred events."""
HEARTBEAT_S = 1.0
SPOOL_FROM = 20_000
"""Events in memory from which on the oldest are moved to disk."""
MOST_BUFFERED = 100_000
"""Decisions in memory, about 100 MB: past this the disk does not keep up, and the oldest allows are dropped first."""
_STRIDE = 256
"""Events that are encoded in one go: well under a millisecond, in which no check is answered."""
MOST_PER_FLUSH = 8192
_SPOOL_CHECK_S = 0.1

Kept = tuple[int, Plan, Decision]
"""Number of a decision, and the decision, until it is encoded."""

GapReason = Literal["buffer_full", "spool_full", "spool_corrupt", "refused"]

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class EmissionStats:
    """Counts since the start; read by the metrics."""

    offered: int = 0
    acknowledged: int = 0
    dropped: int = 0
    spooled: int = 0
    folds: int = 0
    failures: int = 0


@dataclass(slots=True)
class Emitter:
    """Numbers, keeps and sends the events of one source. Belongs to one event loop.

    ``source`` is new with each start of the process; ``seq`` is contiguous from 1. Without a ``spool`` events wait in memory
    alone.
    """

    source: str
    kafka: KafkaLog
    folder: Folder
    spool: Spool | None = None
    stats: EmissionStats = field(default_factory=EmissionStats)
    outcomes: Outcomes = field(default_factory=Outcomes)
    loads: Loads = field(default_factory=Loads)
    _seq: int = 0
    _settled_seq: int = 0
    """Up to here every event is acknowledged or announced as dropped."""
    _buffer: deque[Kept] = field(default_factory=deque)
    _sending: list[Spooled] = field(default_factory=list)
    _gaps: dict[GapReason, list[int]] = field(default_factory=dict)
    _folds: FoldRecords = field(init=False)
    _outcomes: OutcomeRecords = field(init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _disk: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._folds = FoldRecords(self.source)
        self._outcomes = OutcomeRecords(self.source)

    @property
    def buffered(self) -> int:
        """Events in memory that Kafka does not have yet."""
        return len(self._buffer) + len(self._sending)

    def offer(self, plan: Plan, decision: Decision) -> None:
        """Take one decision for emission. Never waits, never raises."""
        self._seq += 1
        self.stats.offered += 1
        self._buffer.append((self._seq, plan, decision))
        self.folder.add(plan, decision)
        if decision.outcome == "allow":
            self.loads.add(plan)
        if len(self._buffer) > MOST_BUFFERED:
            self._drop()

    def _drop(self) -> None:
        """Make room for a tenth: the oldest allows go first, then the oldest of all."""
        room = MOST_BUFFERED // 10
        kept: deque[Kept] = deque()
        dropped: list[int] = []
        for entry in self._buffer:
            if len(dropped) < room and entry[2].outcome == "allow":
                dropped.append(entry[0])
            else:
                kept.append(entry)
        while len(dropped) < room:
            dropped.append(kept.popleft()[0])
        self._buffer = kept
        self._announce("buffer_full", dropped)

    def _announce(self, reason: GapReason, seqs: Iterable[int]) -> None:
        known = self._gaps.setdefault(reason, [])
        before = len(known)
        known.extend(seqs)
        self.stats.dropped += len(known) - before

    def start(self) -> asyncio.Task[None]:
        """Connect and send in the background, for as long as the returned task runs."""
        loop = asyncio.get_running_loop()
        sending = loop.create_task(self._run())
        self._tasks = [sending, loop.create_task(self._keep_spooling())]
        return sending

    async def close(self, timeout_s: float) -> None:
        """Send what is left and the closing events; what Kafka does not take in ``timeout_s`` goes to the spool."""
        self._stop.set()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*self._tasks)
                await self.kafka.close()
        except TimeoutError:
            await self._leave_behind()
        if self.spool is not None:
            self.spool.close()

    async def _leave_behind(self) -> None:
        """Kafka is away at the end: leave all that it does not have to the next process of this name."""
        left = [*self._sending, *self._encode(len(self._buffer)), *self._take_gaps()]
        if self.spool is None:
            log.error("events_lost_at_exit", events=len(left))
            return
        try:
            for start in range(0, len(left), LARGEST_SEGMENT_RECORDS):
                self.spool.append(left[start : start + LARGEST_SEGMENT_RECORDS])
        except OSError as error:
            log.error("events_lost_at_exit", events=len(left), error=str(error))  # noqa: TRY400 no traceback helps
        else:
            log.warning("events_left_in_spool", folder=str(self.spool.folder), in_memory=len(left))

    async def _run(self) -> None:
        await self.kafka.connect()
        next_heartbeat_s = next_flush_s = 0.0
        must_adopt = self.spool is not None
        while True:
            is_last, now_s = self._stop.is_set(), time.monotonic()
            try:
                if now_s >= next_heartbeat_s:  # before the first event too: a reader then knows where to begin
                    next_heartbeat_s = now_s + HEARTBEAT_S
                    await self._send_outcomes()
                    await self._mark(HeartbeatEvent)
                await self._send_folds()
                if is_last or now_s >= next_flush_s:
                    next_flush_s = now_s + FLUSH_S
                    await self._flush()
                if is_last:
                    await self._send_outcomes()
                    await self._mark(ClosedEvent)
                    return
                if must_adopt:
                    must_adopt = False
                    await self._adopt()
            except EmissionFailed as error:
                self.stats.failures += 1
                log.warning("kafka_failed", error=str(error))
                await self.kafka.close()
                await self.kafka.connect()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), FOLD_S)

    async def _flush(self) -> None:
        """Send everything that is kept, oldest first, and wait until Kafka has it: a heartbeat may speak for it then."""
        settles = self._seq
        if self.spool is not None:
            await self._send_spool(self.spool)
        while self._gaps or (self._buffer and self._buffer[0][0] <= settles):
            while self._buffer and len(self._sending) < MOST_PER_FLUSH:
                self._sending += self._encode(_STRIDE)
                await asyncio.sleep(0)  # let checks be answered
            self._sending += self._take_gaps()
            await self._send_decisions(self._sending)
            self._sending = []
        unannounced = [seq for seqs in self._gaps.values() for seq in seqs]
        self._settled_seq = min([settles, *(seq - 1 for seq in unannounced)])

    def _encode(self, most: int) -> list[Spooled]:
        """Take the oldest decisions, and encode them."""
        taken = [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]
        return [
            Spooled(seq, key_event(plan), encode_event(self.source, seq, plan, decision), decision.outcome == "allow")
            for seq, plan, decision in taken
        ]

    def _take_gaps(self) -> list[Spooled]:
        gaps, self._gaps = self._gaps, {}
        at_ms = time.time_ns() // 1_000_000
        events = [GapEvent(self.source, join_ranges(seqs), at_ms, reason) for reason, seqs in gaps.items()]
        return [Spooled(0, b"", _encode(event), is_allow=False) for event in events]

    async def _send_decisions(self, events: Sequence[Spooled]) -> None:
        """Send events; those of a batch that Kafka refuses for good are announced, and the failure is raised."""
        by_partition: dict[int, list[Spooled]] = defaultdict(list)
        partitions = self.kafka.partitions[DECISIONS.name]
        for start in range(0, len(events), _STRIDE):
            stride = events[start : start + _STRIDE]
            for event, partition in zip(stride, choose_partitions([e.key for e in stride], partitions), strict=True):
                by_partition[partition].append(event)
            await asyncio.sleep(0)

        failure: EmissionFailed | None = None
        for partition, mine in by_partition.items():  # one after the other: all at once would hold up checks for milliseconds
            try:
                await self.kafka.send(DECISIONS.name, partition, [(event.key or None, event.value) for event in mine])
                self.stats.acknowledged += len(mine)
            except EmissionFailed as error:
                self._announce("refused", [event.seq for event in mine if event.seq])
                failure = error
        if failure is not None:
            self._sending = []
            raise failure

    async def _send_folds(self) -> None:
        folds = self.folder.take()
        self.stats.folds += len(folds)
        self._folds.add(folds, self.kafka.partitions[DENIALS.name], time.time_ns() // 1_000_000)
        await self._send_numbered(DENIALS.name, self._folds)

    async def _send_outcomes(self) -> None:
        """Send what backends reported and what was admitted since the last time; after an outage, what is left of before."""
        if not self._outcomes.unsent():
            now_ms, partitions = time.time_ns() // 1_000_000, self.kafka.partitions[OUTCOMES.name]
            self._outcomes.add(self.outcomes.take(now_ms), self.loads.take(), partitions, now_ms)
        await self._send_numbered(OUTCOMES.name, self._outcomes)

    async def _send_numbered(self, topic: str, queue: NumberedRecords) -> None:
        async def send(partition: int, records: list[bytes]) -> None:
            await self.kafka.send(topic, partition, [(None, record) for record in records])
            queue.settle(partition, len(records))

        await _gather([send(partition, records) for partition, records in queue.unsent().items()])

    async def _send_spool(self, spool: Spool) -> None:
        while True:
            async with self._disk:  # what is on its way to the disk stands before what is in memory: wait for it
                if spool.is_empty:
                    return
                segment = spool.oldest
                try:
                    events = await asyncio.to_thread(spool.read, segment)
                except SpoolCorrupt as error:
                    log.error("spool_corrupt", error=str(error), segment=str(segment))  # noqa: TRY400 no traceback helps
                    events = error.readable
                    self._announce("spool_corrupt", error.lost)
            refused: EmissionFailed | None = None
            try:
                await self._send_decisions(events)
            except EmissionFailed as error:
                refused = error  # announced, so never sent again: part of the segment may have arrived
            async with self._disk:
                await asyncio.to_thread(spool.discard, segment)
            if refused is not None:
                raise refused

    async def _adopt(self) -> None:
        """Send what processes of this name left behind when they ended without Kafka."""
        assert self.spool is not None  # noqa: S101 the caller looked
        for abandoned in find_abandoned(self.spool.folder.parent, self.spool.capacity_bytes):
            if not abandoned.is_empty:
                log.info("spool_adopted", folder=str(abandoned.folder), bytes=abandoned.size_bytes)
            await self._send_spool(abandoned)
            abandoned.close()

    async def _keep_spooling(self) -> None:
        """Move the oldest events to disk while they are more than memory should hold."""
        while not self._stop.is_set():
            while self.spool is not None and len(self._buffer) > SPOOL_FROM:
                await self._spool_some(self.spool)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _SPOOL_CHECK_S)

    async def _spool_some(self, spool: Spool) -> None:
        async with self._disk:
            events = self._encode(LARGEST_SEGMENT_RECORDS)
            if not events:
                return  # sent while this waited for its turn
            try:
                lost = await asyncio.to_thread(spool.append, events)
            except OSError as error:
                log.error("spool_failed", error=str(error), folder=str(spool.folder))  # noqa: TRY400 no traceback helps
                lost = [event.seq for event in events]
            else:
                self.stats.spooled += len(events)
            self._announce("spool_full", lost)

    async def _mark(self, kind: type[HeartbeatEvent | ClosedEvent]) -> None:
        at_ms = time.time_ns() // 1_000_000
        decided = _encode(kind(self.source, self._settled_seq, at_ms))
        for partition in range(self.kafka.partitions[DECISIONS.name]):
            await self.kafka.send(DECISIONS.name, partition, [(None, decided)])
        for topic, queue in ((DENIALS.name, self._folds), (OUTCOMES.name, self._outcomes)):
            for partition in range(self.kafka.partitions[topic]):
                mark = _encode(kind(self.source, queue.find_settled(partition), at_ms))
                await self.kafka.send(topic, partition, [(None, mark)])


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
