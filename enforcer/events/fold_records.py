"""Number the folds of a flush and queue them by partition, until Kafka has them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from enforcer.events.numbered_records import NumberedRecords
from topics.partition import choose_partitions
from topics.wire import Fold, FoldsEvent

LARGEST_RECORD_BYTES = 512 * 1024
"""Of one record. A fold alone is far below: its attributes are at most 8 KB."""
_HEAD_BYTES = 1024

_encode = msgspec.json.Encoder().encode


class FoldRecords(NumberedRecords):
    """Records of one source for topic ``denials``: the folds of one flush that go to one partition share one."""

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
                self.put(partition, self._writer(record, at_ms))

    def _writer(self, folds: Sequence[bytes], at_ms: int) -> Callable[[int], bytes]:
        raw = [cast("Fold", msgspec.Raw(fold)) for fold in folds]  # encoded before, to be measured
        return lambda n: _encode(FoldsEvent(self.source, n, at_ms, raw))


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
