"""Number what backends reported and what was admitted, and queue it by partition, until Kafka has it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from enforcer.events.loads import Load
from enforcer.events.numbered_records import NumberedRecords
from enforcer.events.outcomes import Merged
from topics.partition import choose_partitions
from topics.wire import LoadEvent, OutcomeEvent

_encode = msgspec.json.Encoder().encode


class OutcomeRecords(NumberedRecords):
    """Records of one source for topic ``outcomes``: one per action and second, those of one action in one partition."""

    def add(self, outcomes: Sequence[tuple[str, int, Merged]], loads: Sequence[Load], partitions: int, now_ms: int) -> None:
        """Queue what one tick brought.

        Args:
            outcomes: Action, second in ms, and what was reported of it.
            loads: What was admitted in the tick that ends now.
            partitions: Of the topic, as the broker has it.
            now_ms: This enforcer's clock.
        """
        second_ms = max(0, now_ms - 1000) // 1000 * 1000
        writers = [
            *((action, self._writer_of_outcome(action, at_ms, merged)) for action, at_ms, merged in outcomes),
            *((load.action, self._writer_of_load(load, second_ms)) for load in loads),
        ]
        chosen = choose_partitions([action.encode() for action, _ in writers], partitions)
        for (_, write), partition in zip(writers, chosen, strict=True):
            self.put(partition, write)

    def _writer_of_outcome(self, action: str, second_ms: int, merged: Merged) -> Callable[[int], bytes]:
        return lambda n: _encode(
            OutcomeEvent(
                self.source,
                n,
                action,
                second_ms,
                merged.count,
                merged.errors,
                merged.timeouts,
                dict(sorted(merged.latencies.items())),
            )
        )

    def _writer_of_load(self, load: Load, second_ms: int) -> Callable[[int], bytes]:
        return lambda n: _encode(
            LoadEvent(
                self.source,
                n,
                load.action,
                second_ms,
                load.admitted_tokens,
                load.active_subjects,
                load.refill_milli_per_s,
                load.priority,
            )
        )
