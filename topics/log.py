"""Read one topic: a fixed cut of its history, in batches or in order of time, and what comes after."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from topics.connection import Tell, keep_silent, open_admin
from topics.dead_letters import Record
from topics.errors import HistoryLost, KafkaUnavailable, TopicMissing

FETCH_WAIT_MS = 500
FETCH_BYTES = 131_072
"""Of one partition at a time, compressed; a batch that is larger comes whole."""

MOST_WAITING = 20_000
"""Records of one partition that may wait for those of others."""

STALL_S = 30.0
"""With records known to be there and none coming for that long, Kafka counts as away."""


class StoredRecord(Record, Protocol):
    """A record as it is read here."""

    @property
    def timestamp(self) -> int:
        """When the broker appended it, in milliseconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A fixed part of a topic.

    Attributes:
        starts: First offset by partition.
        ends: First offset that is no longer part of it, by partition.
        edges: First offset that retention has left, by partition; 0 where nothing was deleted yet.
    """

    starts: Mapping[int, int]
    ends: Mapping[int, int]
    edges: Mapping[int, int]

    @property
    def offsets(self) -> int:
        """How many offsets it spans: at least as many as there are records."""
        return sum(end - self.starts[partition] for partition, end in self.ends.items())


class Log:
    """One topic, opened for reading with :func:`open_log`. In no group; commits nothing; one reader at a time."""

    def __init__(self, consumer: AIOKafkaConsumer, bootstrap: str, topic: str, partitions: Collection[int]) -> None:
        self._consumer = consumer
        self._bootstrap = bootstrap
        self._topic = topic
        self._partitions = [TopicPartition(topic, partition) for partition in sorted(partitions)]
        self._last_record_s = 0.0

    async def cut(self, since_ms: int | None = None) -> Cut:
        """Fix the part of the topic that is there now.

        The ends of the partitions are not taken at one instant: a record may be outside although one that was written later,
        in another partition, is inside.

        Args:
            since_ms: Start at the first record that arrived at this time or later; None for the beginning.

        Raises:
            KafkaUnavailable: The broker went away.
        """
        try:
            edges = await self._consumer.beginning_offsets(self._partitions)
            ends = await self._consumer.end_offsets(self._partitions)
            starts = dict(edges)
            if since_ms is not None:
                found = await self._consumer.offsets_for_times(dict.fromkeys(self._partitions, since_ms))
                starts = {tp: place.offset if (place := found[tp]) else ends[tp] for tp in self._partitions}
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(self._bootstrap, error) from error
        return Cut(
            starts={tp.partition: min(starts[tp], ends[tp]) for tp in self._partitions},
            ends={tp.partition: ends[tp] for tp in self._partitions},
            edges={tp.partition: edges[tp] for tp in self._partitions},
        )

    async def read(self, cut: Cut) -> AsyncIterator[list[StoredRecord]]:
        """Read a cut in batches, each of one partition and in its order; the partitions in no order.

        Raises:
            HistoryLost: Retention was faster. Nothing is proven by what was read: take a new cut.
            KafkaUnavailable: No record came for half a minute although there are some.
        """
        unread = self._seek(cut)
        while unread:
            for _, batch in await self._fetch(cut, unread):
                yield batch

    async def read_in_time(self, cut: Cut) -> AsyncIterator[StoredRecord]:
        """Read a cut in the order in which its records arrived at the broker, whatever their partition.

        Raises:
            HistoryLost: Retention was faster; take a new cut.
            KafkaUnavailable: No record came for half a minute although there are some.
        """
        unread = self._seek(cut)
        waiting: dict[TopicPartition, deque[StoredRecord]] = {tp: deque() for tp in unread}
        heads: list[tuple[int, TopicPartition]] = []
        while unread or heads:
            # The earliest record is known only when each partition that has more shows its next one.
            if lacking := [tp for tp in unread if not waiting[tp]]:
                self._consumer.resume(*lacking)
                for tp, batch in await self._fetch(cut, unread):
                    if not waiting[tp]:
                        heappush(heads, (batch[0].timestamp, tp))
                    waiting[tp].extend(batch)
                    if len(waiting[tp]) > MOST_WAITING:
                        self._consumer.pause(tp)
                continue
            _, tp = heappop(heads)
            record = waiting[tp].popleft()
            if waiting[tp]:
                heappush(heads, (waiting[tp][0].timestamp, tp))
            yield record

    async def follow(self, cut: Cut) -> AsyncIterator[list[StoredRecord]]:
        """Read on from the end of a cut, forever; an empty batch twice a second when nothing comes.

        A broker that goes away is waited for. Partitions that are added meanwhile are not seen.

        Raises:
            HistoryLost: Retention was faster than this reader; take a new cut.
        """
        self._consumer.assign(self._partitions)
        for tp in self._partitions:
            self._consumer.seek(tp, cut.ends[tp.partition])
        while True:
            batches = await self._getmany()
            yield sorted((record for batch in batches.values() for record in batch), key=lambda record: record.timestamp)

    def _seek(self, cut: Cut) -> set[TopicPartition]:
        wanted = {tp for tp in self._partitions if cut.starts[tp.partition] < cut.ends[tp.partition]}
        self._consumer.assign(list(wanted))
        for tp in wanted:
            self._consumer.seek(tp, cut.starts[tp.partition])
        self._last_record_s = asyncio.get_running_loop().time()
        return wanted

    async def _fetch(self, cut: Cut, unread: set[TopicPartition]) -> list[tuple[TopicPartition, list[StoredRecord]]]:
        """Fetch what is there, and strike off ``unread`` the partitions that were read to their end."""
        batches = await self._getmany()
        now_s = asyncio.get_running_loop().time()
        if batches:
            self._last_record_s = now_s
        elif now_s - self._last_record_s > STALL_S:
            raise KafkaUnavailable(self._bootstrap, f"no record for {STALL_S:g} s")
        wanted: list[tuple[TopicPartition, list[StoredRecord]]] = []
        for tp in tuple(unread):
            end = cut.ends[tp.partition]
            # By position and not by the last record: the last offsets may be markers, or compacted away.
            if await self._consumer.position(tp) >= end:
                unread.discard(tp)
                self._consumer.pause(tp)
            batch = batches.get(tp, [])
            if batch and batch[-1].offset >= end:
                batch = [record for record in batch if record.offset < end]
            if batch:
                wanted.append((tp, batch))
        return wanted

    async def _getmany(self) -> dict[TopicPartition, list[StoredRecord]]:
        try:
            # All partitions and all that was fetched: what stays in the client's buffer holds up the next fetch of the rest.
            batches: dict[TopicPartition, list[StoredRecord]] = await self._consumer.getmany(timeout_ms=FETCH_WAIT_MS)
        except OffsetOutOfRangeError as error:
            raise HistoryLost(f"retention dropped records of {self._topic} while they were being read: run it again") from error
        except KafkaError as error:
            raise KafkaUnavailable(self._bootstrap, error) from error
        return batches


@asynccontextmanager
async def open_log(bootstrap: str, topic: str, *, wait_s: float = 0.0, tell: Tell = keep_silent) -> AsyncIterator[Log]:
    """Open a topic for reading, and close it at the end. Joins no group, commits nothing, makes no topic.

    Args:
        bootstrap: ``host:port[,host:port]``.
        topic: Any topic that exists.
        wait_s: How long to wait for a broker that is not up; at 0 there is one attempt.
        tell: Is told what is waited for.

    Raises:
        KafkaUnavailable: No broker answered in that time.
        TopicMissing: There is no such topic.
    """
    async with open_admin(bootstrap, wait_s=wait_s, tell=tell) as admin:
        # All are asked for: a request that names a missing topic would make it.
        topics = {entry["topic"]: entry["partitions"] for entry in await admin.describe_topics()}
    if topic not in topics:
        raise TopicMissing(topic, bootstrap)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        # A reader that retention has overtaken has to know: what it proves or shows would silently have a hole.
        auto_offset_reset="none",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    try:
        try:
            await consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(bootstrap, error) from error
        yield Log(consumer, bootstrap, topic, [entry["partition"] for entry in topics[topic]])
    finally:
        await consumer.stop()
