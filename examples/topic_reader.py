"""Reads Ratchet's topics as any outsider can: without a group, so that it disturbs nobody's offsets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from topics.events import RECORDS, Event

POLL_MS = 200

Positions = Mapping[TopicPartition, int]


class Record(Protocol):
    """What is needed of one of aiokafka's records."""

    @property
    def value(self) -> bytes | None:
        """As it stands in the topic; None for a tombstone."""


class TopicReader:
    """Reads some topics from their end, or from positions that an earlier reader noted.

    An asynchronous context manager; once entered, everything written from then on is read. Entering raises ``LookupError``
    when a topic does not exist, and aiokafka's ``KafkaConnectionError`` when no broker answers.
    """

    def __init__(self, bootstrap: str, topics: Sequence[str], *, since: Positions | None = None) -> None:
        """Prepare; entering connects.

        Args:
            bootstrap: ``host:port[,host:port]``.
            topics: Names; each has to exist.
            since: Where to begin; None for the topics' ends.
        """
        self._topics = topics
        self._since = since
        # Without a group a subscription is an assignment of all partitions.
        self._consumer = AIOKafkaConsumer(
            *topics, bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        self.undecodable = 0
        """Records that are none of the published events; they are passed over."""
        self.positions: dict[TopicPartition, int] = {}
        """Where it began."""

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            self.positions = dict(self._since) if self._since is not None else await self._find_ends()
            for partition, offset in self.positions.items():
                self._consumer.seek(partition, offset)
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def read(self) -> list[Event]:
        """Return what has come; after ``POLL_MS`` an empty list."""
        batches = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=2_000)
        events, undecodable = decode_records(batches)
        self.undecodable += undecodable
        return events

    async def read_to_end(self) -> AsyncIterator[Event]:
        """Yield everything up to the topics' ends as they are now."""
        ends = {partition: end for partition, end in (await self._consumer.end_offsets(list(self.positions))).items() if end}
        while any([await self._consumer.position(partition) < end for partition, end in ends.items()]):
            for event in await self.read():
                yield event

    async def _find_ends(self) -> dict[TopicPartition, int]:
        partitions = sorted(self._consumer.assignment())
        missing = set(self._topics) - {partition.topic for partition in partitions}
        if missing:
            raise LookupError(f"there is no topic {', '.join(sorted(missing))}: make it with `python -m topics ensure`")
        return dict(await self._consumer.end_offsets(partitions))


def decode_records(batches: Mapping[TopicPartition, Sequence[Record]]) -> tuple[list[Event], int]:
    """Decode records by their topics; return the events, and how many records are none of the published ones."""
    events, undecodable = [], 0
    for partition, records in batches.items():
        for record in records:
            try:
                events.append(RECORDS[partition.topic].validate_json(record.value or b""))
            except ValidationError:
                undecodable += 1
    return events, undecodable
