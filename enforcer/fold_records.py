"""Number the folds of a flush and queue them by partition, until Kafka has them. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from topics.partition import choose_partitions
from topics.wire import Fold, FoldsEvent

LARGEST_RECORD_BYTES = 512 * 1024
"""Of one record. A fold alone is far below: its attributes are at most 8 KB."""
_HEAD_BYTES = 1024

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class FoldRecords:
    """Records of one source for topic ``denials``, numbered ``n`` from 1 in each partition without gaps.

    A record is kept until it is acknowledged, and sent again as it is: the detector drops what it has seen.
    """

    source: str
    numbers: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Last ``n`` of each partition."""
    _unsent: dict[int, deque[bytes]] = field(default_factory=lambda: defaultdict(deque))

    def add(self, folds: Sequence[Fold], partitions: int, at_ms: int) -> None:
        """Queue the folds of one flush.

        Args:
            folds: Of any subjects.
            partitions: Of the topic, as the broker has it.
            at_ms: Time of the flush.
        """
        by_partition: dict[int, list[bytes]] = defaultdict(list)
        for fold, partition in zip(folds, choose_partitions([f.subject.encode() for f in folds], partitions), strict=True):
            by_partition[partition].append(_encode(fold))
        for partition, mine in by_partition.items():
            for record in _split(mine):
                self.numbers[partition] += 1
                event = FoldsEvent(self.source, self.numbers[partition], at_ms, [msgspec.Raw(fold) for fold in record])
                self._unsent[partition].append(_encode(event))

    def unsent(self) -> dict[int, list[bytes]]:
        """What waits, by partition, in order."""
        return {partition: list(records) for partition, records in self._unsent.items() if records}

    def settle(self, partition: int, count: int) -> None:
        """The first ``count`` records of a partition are acknowledged."""
        for _ in range(count):
            self._unsent[partition].popleft()


def _split(folds: Sequence[bytes]) -> list[list[bytes]]:
    """Share encoded folds out over as few records as hold them."""
    records: list[list[bytes]] = []
    room = 0
    for fold in folds:
        if len(fold) + 1 > room:
            records.append([])
            room = LARGEST_RECORD_BYTES - _HEAD_BYTES
        records[-1].append(fold)
        room -= len(fold) + 1
    return records
