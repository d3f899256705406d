from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from topics.intervals import BLOCK_NUMBERS, Range, Tally, clip, count, join, subtract

NUMBERS = st.lists(st.one_of(st.integers(0, 40), st.integers(BLOCK_NUMBERS - 20, BLOCK_NUMBERS + 20), st.integers(0, 100_000)))


def spread(ranges: Iterable[Range]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def gather(numbers: Iterable[int]) -> list[Range]:
    return list(join((number, number) for number in sorted(numbers)))


def tally(numbers: Iterable[int]) -> Tally:
    result = Tally()
    for number in numbers:
        result.add(number)
    return result


@given(NUMBERS)
def test_tally_lists_exactly_the_numbers_that_were_added(numbers: list[int]) -> None:
    assert list(tally(numbers).list_ranges()) == gather(set(numbers))


@given(NUMBERS)
def test_tally_lists_as_doubled_exactly_what_was_added_more_than_once(numbers: list[int]) -> None:
    counts = Counter(numbers)
    seen = tally(numbers)
    assert list(seen.list_doubled()) == gather(number for number, times in counts.items() if times > 1)
    assert (seen.seen, seen.surplus) == (len(counts), len(numbers) - len(counts))


def test_ranges_join_over_blocks_that_filled_up() -> None:
    last = 3 * BLOCK_NUMBERS + 7
    seen = tally(reversed(range(1, last + 1)))
    assert list(seen.list_ranges()) == [(1, last)]
    assert sum(block is None for block in seen._blocks.values()) == 2


def test_a_number_of_a_full_block_is_doubled_when_it_comes_again() -> None:
    seen = tally([*range(BLOCK_NUMBERS), 17, 17, 18])
    assert list(seen.list_doubled()) == [(17, 18)]
    assert seen.surplus == 3


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_subtract_agrees_with_sets(numbers: set[int], others: set[int]) -> None:
    assert list(subtract(gather(numbers), gather(others))) == gather(numbers - others)


@given(st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_clip_agrees_with_sets(numbers: set[int], first: int, last: int) -> None:
    assert list(clip(gather(numbers), first, last)) == gather(number for number in numbers if first <= number <= last)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10))))
def test_join_keeps_the_numbers_and_leaves_no_ranges_that_touch(parts: list[tuple[int, int]]) -> None:
    ranges = sorted((first, first + length) for first, length in parts)
    joined = list(join(ranges))
    assert spread(joined) == spread(ranges)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(joined))
    assert count(joined) == len(spread(ranges))
