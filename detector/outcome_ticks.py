"""Gather what enforcers report of one partition of ``outcomes`` into ticks. Pure.

A tick is a second of the broker's clock, which all records of a partition share and which never steps back in it: it ends with
the first record of a later second (sources that have nothing to report still send a heartbeat each second), so the same topic
gives the same ticks again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from detector.records import UndecodableRecord
from detector.throttle import TICK_MS, Tick
from topics.sketch import estimate_us
from topics.wire import ClosedEvent, LoadEvent, OutcomeEvent, OutcomeRecord

MOST_SOURCES = 4096
"""Remembered by the number of their last record; beyond, the one that was silent longest is forgotten."""
OLDEST_MS = 15_000
"""A report that took longer says nothing of how the backend fares now."""

_decode: Callable[[bytes], OutcomeRecord] = msgspec.json.Decoder(OutcomeRecord).decode


def decode_outcomes(value: bytes | None) -> OutcomeRecord:
    """Read one record of topic ``outcomes``.

    Raises:
        UndecodableRecord: It is none. Set it aside and go on: it stays so.
    """
    try:
        return _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UndecodableRecord(str(error)) from error


@dataclass(slots=True)
class _Gathered:
    count: int = 0
    errors: int = 0
    latencies: dict[int, int] = field(default_factory=dict)
    admitted_tokens: int = 0
    refill_milli_per_s: int = 0
    priority: int = 5

    def add_outcome(self, outcome: OutcomeEvent) -> None:
        self.count += outcome.count
        # A timeout may be counted as an error too; which of both it is matters to nobody here.
        self.errors += min(outcome.count, max(outcome.errors, outcome.timeouts))
        for bucket, count in outcome.latencies.items():
            self.latencies[bucket] = self.latencies.get(bucket, 0) + count

    def add_load(self, load: LoadEvent) -> None:
        self.admitted_tokens += load.admitted_tokens
        self.refill_milli_per_s += load.refill_milli_per_s
        self.priority = load.priority

    def close(self, at_ms: int) -> Tick:
        p90_us = estimate_us(self.latencies, 0.9) if self.latencies else 0.0
        return Tick(at_ms, self.count, self.errors, p90_us, self.admitted_tokens, self.refill_milli_per_s, self.priority)


@dataclass(slots=True)
class Ticks:
    """The current tick of one partition. Holds what one second brings, and a number for each source."""

    late: int = 0
    """Reports that came too late to count."""
    _at_ms: int = 0
    """End of the current tick; 0 before the first record."""
    _gathered: dict[str, _Gathered] = field(default_factory=dict)
    _numbers: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def add(self, record: OutcomeRecord, taken_ms: int) -> dict[str, Tick] | None:
        """Take one record into account.

        Args:
            record: The next of the partition; one that was read before changes nothing.
            taken_ms: When the broker took it.

        Returns:
            The tick that has ended with this record, by action; None while it goes on.
        """
        ended = None
        if taken_ms >= self._at_ms:
            if self._at_ms:
                ended = {action: gathered.close(self._at_ms) for action, gathered in self._gathered.items()}
            self._gathered = {}
            self._at_ms = taken_ms // TICK_MS * TICK_MS + TICK_MS
        if isinstance(record, ClosedEvent):
            self._numbers.pop(record.source, None)
        elif isinstance(record, OutcomeEvent | LoadEvent) and self._is_new(record):
            if record.second_ms < taken_ms - OLDEST_MS:
                self.late += 1
            else:
                gathered = self._gathered.setdefault(record.action, _Gathered())
                if isinstance(record, OutcomeEvent):
                    gathered.add_outcome(record)
                else:
                    gathered.add_load(record)
        return ended

    def _is_new(self, record: OutcomeEvent | LoadEvent) -> bool:
        if record.n <= self._numbers.get(record.source, 0):
            return False
        self._numbers[record.source] = record.n
        self._numbers.move_to_end(record.source)
        if len(self._numbers) > MOST_SOURCES:
            self._numbers.popitem(last=False)
        return True
