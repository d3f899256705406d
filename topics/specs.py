"""The six topics: names, keys, partitions, retention, cleanup and size limits. Pure.

Nothing may assume the number of partitions that stands here: it is what :mod:`topics.ensure` asks for when a topic is missing.
Producers and readers ask the broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FOREVER_MS = -1

LARGEST_RECORD_BYTES = 1_048_576
"""Of one record batch as it is stored. A fold record is at most 512 KB, a dead letter at most 180 KB, all else far below."""

LARGEST_REPLICATION = 3


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What one topic has to be.

    Attributes:
        name: Name on the broker.
        key: What a record's key is; records with one key stay in one partition, in order.
        partitions: Asked for when the topic is made; at least 1.
        retention_ms: How long records stay, from their arrival at the broker; ``FOREVER_MS`` for always.
        cleanup: ``delete`` drops what is older than the retention; ``compact`` keeps the last record of each key.
        purpose: Who reads it and why it is kept that long.
    """

    name: str
    key: str
    partitions: int
    retention_ms: int
    cleanup: Literal["delete", "compact"]
    purpose: str

    def configure(self, replication: int) -> dict[str, str]:
        """Give the topic's configuration as the broker wants it.

        Args:
            replication: Replicas of each partition; with 3, a write needs two of them, so that one broker may be away.
        """
        config = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(LARGEST_RECORD_BYTES),
            # A producer with a wrong clock, or one that sends a spool hours late, must not shorten or stretch the retention.
            "message.timestamp.type": "LogAppendTime",
            "min.insync.replicas": "2" if replication >= LARGEST_REPLICATION else "1",
        }
        if self.cleanup == "compact":
            # The segment that is being written is never compacted: this rolls it, so that readers get states, not changes.
            config["max.compaction.lag.ms"] = str(DAY_MS)
        else:
            # Retention drops whole segments: with Kafka's week a topic of two days would keep nine.
            config["segment.ms"] = str(min(DAY_MS, self.retention_ms // 8))
        return config


DECISIONS = TopicSpec(
    name="decisions",
    key="subject of the user, user=alice",
    partitions=8,
    retention_ms=7 * DAY_MS,
    cleanup="delete",
    purpose="Every decision, for analysts, backtests and the audit. A week, so that rules can be tried on each day of it.",
)
DENIALS = TopicSpec(
    name="denials",
    key="none; the partition is chosen by the subject of the folds",
    partitions=8,
    retention_ms=2 * DAY_MS,
    cleanup="delete",
    purpose="What the detector counts. Two days: how far a stopped detector can catch up, and how late a verdict may come.",
)
OUTCOMES = TopicSpec(
    name="outcomes",
    key="none; the partition is chosen by the action",
    partitions=4,
    retention_ms=DAY_MS,
    cleanup="delete",
    purpose="Latency, errors and load per action and second, for the adaptive throttle. Old seconds throttle nobody.",
)
VERDICTS = TopicSpec(
    name="verdicts",
    key="subject; of a throttle, action=login",
    partitions=4,
    retention_ms=365 * DAY_MS,
    cleanup="delete",
    purpose="The audit: every change of what is held against a subject, and why. A year, for complaints and for the law.",
)
SUBJECTS = TopicSpec(
    name="subjects",
    key="subject",
    partitions=4,
    retention_ms=FOREVER_MS,
    cleanup="compact",
    purpose="The latest state of each subject, from which an emptied Redis is rebuilt. A state must not expire before its ban.",
)
DEAD_LETTERS = TopicSpec(
    name="dead_letters",
    key="topic/partition/offset of the record's origin",
    partitions=1,
    retention_ms=30 * DAY_MS,
    cleanup="delete",
    purpose="Records that could not be decoded or handled, with their origin. Time to find the writer that is at fault.",
)

SPECS: tuple[TopicSpec, ...] = (DECISIONS, DENIALS, OUTCOMES, VERDICTS, SUBJECTS, DEAD_LETTERS)
"""All topics, in the order in which data flows."""
