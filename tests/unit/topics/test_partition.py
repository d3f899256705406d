from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from topics.partition import choose_partition, choose_partitions


@given(st.binary(max_size=40), st.integers(1, 200))
def test_it_agrees_with_the_producer(key: bytes, partitions: int) -> None:
    everything = list(range(partitions))
    assert choose_partition(key, partitions) == DefaultPartitioner()(key, everything, everything)


@pytest.mark.parametrize(
    ("key", "hashed"), [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]
)
def test_it_agrees_with_the_java_client(key: bytes, hashed: int) -> None:
    # Vectors of org.apache.kafka.common.utils.UtilsTest.
    assert choose_partition(key, 1_000_003) == (hashed & 0x7FFFFFFF) % 1_000_003


@given(st.lists(st.binary(max_size=13), max_size=60), st.integers(1, 200))
def test_many_keys_are_spread_as_each_of_them_alone(keys: list[bytes], partitions: int) -> None:
    assert choose_partitions(keys, partitions) == [choose_partition(key, partitions) for key in keys]
