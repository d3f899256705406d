"""Buckets and quantiles of the sketch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topics.sketch import BASE, LARGEST_INDEX, estimate_us, find_bucket


@given(st.floats(min_value=1.001, max_value=1e11))
def test_a_latency_lies_in_its_bucket(latency_us: float) -> None:
    index = find_bucket(latency_us)
    assert BASE ** (index - 1) * (1 - 1e-9) < latency_us <= BASE**index * (1 + 1e-9)


@given(st.floats(min_value=1, max_value=1e11))
def test_a_latency_is_told_to_one_per_cent(latency_us: float) -> None:
    assert estimate_us({find_bucket(latency_us): 1}, 0.5) == pytest.approx(latency_us, rel=0.0101)


@pytest.mark.parametrize(("latency_us", "index"), [(-1, 0), (0, 0), (1, 0), (1.0001, 1), (1e30, LARGEST_INDEX)])
def test_what_is_out_of_bounds_counts_as_the_outermost_bucket(latency_us: float, index: int) -> None:
    assert find_bucket(latency_us) == index


def test_quantiles_are_within_one_per_cent() -> None:
    latencies: dict[int, int] = {}
    for us in range(1, 10_001):
        index = find_bucket(us)
        latencies[index] = latencies.get(index, 0) + 1
    assert estimate_us(latencies, 0.9) == pytest.approx(9_000, rel=0.0101)
    assert estimate_us({10**9: 1}, 0.5) == float("inf")
