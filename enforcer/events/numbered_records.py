"""Records of one source for one topic, numbered in each partition and kept until Kafka has them. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class NumberedRecords:
    """Queues records by partition, numbered ``n`` from 1 in each without gaps.

    A record is kept until it is acknowledged, and sent again as it is: readers drop what they have seen.
    """

    source: str
    _numbers: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Last ``n`` of each partition."""
    _unsent: dict[int, deque[bytes]] = field(default_factory=lambda: defaultdict(deque))

    def put(self, partition: int, write: Callable[[int], bytes]) -> None:
        """Queue the record that ``write`` makes of its number."""
        self._numbers[partition] += 1
        self._unsent[partition].append(write(self._numbers[partition]))

    def unsent(self) -> dict[int, list[bytes]]:
        """What waits, by partition, in order."""
        return {partition: list(records) for partition, records in self._unsent.items() if records}

    def settle(self, partition: int, count: int) -> None:
        """The first ``count`` records of a partition are acknowledged."""
        for _ in range(count):
            self._unsent[partition].popleft()

    def find_settled(self, partition: int) -> int:
        """Last ``n`` of a partition up to which everything is acknowledged: what a heartbeat may speak for."""
        return self._numbers[partition] - len(self._unsent[partition])
