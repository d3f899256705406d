"""Numbers without gaps, and what a heartbeat may speak for."""

from __future__ import annotations

from enforcer.events.numbered_records import NumberedRecords


def test_numbers_are_contiguous_in_each_partition() -> None:
    records = NumberedRecords("e1/0/b")
    for partition in (0, 1, 0):
        records.put(partition, lambda n: str(n).encode())
    assert records.unsent() == {0: [b"1", b"2"], 1: [b"1"]}


def test_a_heartbeat_speaks_for_what_is_acknowledged_alone() -> None:
    records = NumberedRecords("e1/0/b")
    assert records.find_settled(0) == 0
    for _ in range(3):
        records.put(0, lambda n: str(n).encode())
    assert records.find_settled(0) == 0
    records.settle(0, 2)
    assert (records.find_settled(0), records.unsent()) == (2, {0: [b"3"]})
