"""Which partition a key belongs to. Pure."""

from __future__ import annotations

from aiokafka.partitioner import murmur2


def choose_partition(key: bytes, partitions: int) -> int:
    """Choose the partition of a key, as aiokafka's producer and the Java client do.

    Every writer of a topic has to agree, or the records of one subject are spread and its windows count only a share.

    Args:
        key: The record's key; may be empty.
        partitions: Partitions of the topic, at least 1. Ask the broker, never the spec.

    Returns:
        A partition, from 0 to ``partitions - 1``.
    """
    # The sign bit is cleared rather than the absolute value taken: that is what the clients do.
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
