"""Which partition a key belongs to. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from aiokafka.partitioner import murmur2

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_LANE = 0xFFFFFFFF
_FEWEST_TOGETHER = 4


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


def choose_partitions(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Choose the partitions of many keys at once: a ninth of the time that aiokafka's hash takes for each.

    Args:
        keys: Any number, in any order; those of one length are hashed together.
        partitions: As in :func:`choose_partition`.
    """
    chosen = [0] * len(keys)
    by_length: dict[int, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        by_length[len(key)].append(position)
    for length, positions in by_length.items():
        if len(positions) < _FEWEST_TOGETHER or not length:
            for position in positions:
                chosen[position] = choose_partition(keys[position], partitions)
        else:
            hashes = _hash_together([keys[position] for position in positions], length)
            for position, hashed in zip(positions, hashes, strict=True):
                chosen[position] = (hashed & 0x7FFFFFFF) % partitions
    return chosen


def _hash_together(keys: Sequence[bytes], length: int) -> memoryview:
    """MurmurHash2 (Appleby, 2008) of keys of one length, each in a 64-bit lane of one large integer.

    A lane's 32-bit word times the 31-bit multiplier stays inside the lane, so one multiplication serves all keys, and, where
    words do not depend on each other yet, all their words.
    """
    count = len(keys)
    lanes_per_key = -(-length // 8)
    padding = b"\0" * (-length % 8)
    text = int.from_bytes(padding.join(keys) + padding, "little")
    lanes = _fill_lanes(_LANE, count * lanes_per_key)
    halves = (text & lanes, text >> 32 & lanes)
    mixed = [_view_lanes(_mix(half, count * lanes_per_key), count * lanes_per_key) for half in halves]
    full = _fill_lanes(_LANE, count)
    hashes = _fill_lanes(_SEED ^ length, count)
    whole_words, rest = divmod(length, 4)
    for word in range(whole_words):
        hashes = (hashes * _MULTIPLIER & full) ^ _pick(mixed[word % 2], word // 2, lanes_per_key)
    if rest:
        last = _pick(_view_lanes(halves[whole_words % 2], count * lanes_per_key), whole_words // 2, lanes_per_key)
        hashes = (hashes ^ last) * _MULTIPLIER & full
    hashes ^= hashes >> 13 & _fill_lanes(_LANE >> 13, count)
    hashes = hashes * _MULTIPLIER & full
    hashes ^= hashes >> 15 & _fill_lanes(_LANE >> 15, count)
    return _view_lanes(hashes, count)


def _mix(words: int, count: int) -> int:
    full = _fill_lanes(_LANE, count)
    words = words * _MULTIPLIER & full
    words ^= words >> 24 & _fill_lanes(_LANE >> 24, count)
    return words * _MULTIPLIER & full


def _view_lanes(lanes: int, count: int) -> memoryview:
    return memoryview(lanes.to_bytes(8 * count, "little")).cast("Q")


def _pick(view: memoryview, first: int, step: int) -> int:
    """One lane of each key, as one integer."""
    return int.from_bytes(view[first::step].tobytes(), "little")


@lru_cache(maxsize=256)
def _fill_lanes(value: int, count: int) -> int:
    return int.from_bytes(value.to_bytes(8, "little") * count, "little")
