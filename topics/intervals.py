"""Sets of whole numbers that are nearly contiguous, and ranges of them. Pure.

An audit has to remember every number of every source. Numbers of one source arrive spread over all partitions, so that ranges
alone would be nearly as many as the numbers. A :class:`Tally` keeps a bit per number in blocks, and a full block is one entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""First and last number, both included."""

BLOCK_BITS = 12
BLOCK_NUMBERS = 1 << BLOCK_BITS
_BITS = tuple(1 << bit for bit in range(8))
_FULL = (1 << BLOCK_NUMBERS) - 1


class Tally:
    """How often each number was seen: never, once, or more often.

    Costs one bit per number where numbers are missing, and 1/4096 of a dictionary entry where none is. A number on its own
    costs 512 bytes, so what is counted must be dense.
    """

    __slots__ = ("_again", "_blocks", "_room", "seen", "surplus")

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray | None] = {}
        """Bits of each block that has any number; None for all of them."""
        self._room: dict[int, int] = {}
        """How many numbers each block that is not full still lacks."""
        self._again: Tally | None = None
        self.seen = 0
        """How many different numbers were added."""
        self.surplus = 0
        """How many additions were of a number that was there."""

    def add(self, number: int) -> None:
        """Count one number.

        Args:
            number: At least 0.
        """
        index = number >> BLOCK_BITS
        try:
            block = self._blocks[index]
        except KeyError:
            block = self._blocks[index] = bytearray(BLOCK_NUMBERS >> 3)
            self._room[index] = BLOCK_NUMBERS
        place = number & (BLOCK_NUMBERS - 1)
        bit = _BITS[place & 7]
        if block is None or block[place >> 3] & bit:
            self.surplus += 1
            if self._again is None:
                self._again = Tally()
            # What was seen three times is doubled once: the tally below counts that as its own surplus and nobody asks for it.
            self._again.add(number)
            return
        block[place >> 3] |= bit
        self.seen += 1
        self._room[index] -= 1
        if not self._room[index]:
            self._blocks[index] = None
            del self._room[index]

    def list_ranges(self) -> Iterator[Range]:
        """List what was seen, as ranges in ascending order that neither touch nor overlap."""
        return join(self._list_runs())

    def list_doubled(self) -> Iterator[Range]:
        """List what was seen more than once, as ranges in ascending order."""
        return iter(()) if self._again is None else self._again.list_ranges()

    def _list_runs(self) -> Iterator[Range]:
        for index in sorted(self._blocks):
            block = self._blocks[index]
            bits = _FULL if block is None else int.from_bytes(block, "little")
            number = index << BLOCK_BITS
            while bits:
                zeros = (bits & -bits).bit_length() - 1
                bits >>= zeros
                number += zeros
                ones = (~bits & (bits + 1)).bit_length() - 1
                bits >>= ones
                yield number, number + ones - 1
                number += ones


def join(ranges: Iterable[Range]) -> Iterator[Range]:
    """Join ranges that touch or overlap.

    Args:
        ranges: In ascending order of their first numbers; each with its first number not above its last.
    """
    held: Range | None = None
    for first, last in ranges:
        if held is None:
            held = (first, last)
        elif first <= held[1] + 1:
            held = (held[0], max(held[1], last))
        else:
            yield held
            held = (first, last)
    if held is not None:
        yield held


def subtract(ranges: Iterable[Range], others: Iterable[Range]) -> Iterator[Range]:
    """Take the numbers of ``others`` out of ``ranges``.

    Args:
        ranges: In ascending order, without overlaps.
        others: Likewise.
    """
    rest = iter(others)
    other = next(rest, None)
    for first, last in ranges:
        start = first
        while other is not None and other[0] <= last:
            if other[0] > start:
                yield start, other[0] - 1
            start = max(start, other[1] + 1)
            if other[1] > last:
                break
            other = next(rest, None)
        if start <= last:
            yield start, last


def clip(ranges: Iterable[Range], first: int, last: int) -> Iterator[Range]:
    """Keep what lies between two numbers, both included."""
    for low, high in ranges:
        if low <= last and high >= first and first <= last:
            yield max(low, first), min(high, last)


def count(ranges: Iterable[Range]) -> int:
    """Count the numbers in ranges that do not overlap."""
    return sum(last - first + 1 for first, last in ranges)
