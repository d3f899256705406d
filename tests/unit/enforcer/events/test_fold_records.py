from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from enforcer.events.fold_records import FoldRecords
from topics.events import RECORDS, FoldsEvent
from topics.partition import choose_partition
from topics.wire import Fold

PARTITIONS = 8


def fold(subject: str, count: int = 1) -> Fold:
    return Fold(subject, "login", "login", "per_user", count, 1000, 1000)


def read(records: list[bytes]) -> list[FoldsEvent]:
    parsed = [RECORDS["denials"].validate_json(record) for record in records]
    return [record for record in parsed if isinstance(record, FoldsEvent)]


@given(st.lists(st.lists(st.sampled_from([f"user=u{i}" for i in range(40)]), max_size=30), max_size=6))
def test_every_fold_is_in_its_partition_and_numbers_have_no_gaps(flushes: list[list[str]]) -> None:
    records = FoldRecords("e1/0/b")
    for subjects in flushes:
        records.add([fold(subject) for subject in subjects], PARTITIONS, 1000)
    seen: list[str] = []
    for partition, unsent in records.unsent().items():
        events = read(unsent)
        assert [event.n for event in events] == list(range(1, len(events) + 1))
        assert records.find_settled(partition) == 0
        for event in events:
            assert all(choose_partition(f.subject.encode(), PARTITIONS) == partition for f in event.folds)
            seen += [f.subject for f in event.folds]
    assert sorted(seen) == sorted(subject for subjects in flushes for subject in subjects)


def test_what_is_not_acknowledged_is_sent_again_as_it_is() -> None:
    records = FoldRecords("e1/0/b")
    records.add([fold("user=a")], 1, 1000)
    first = records.unsent()
    records.add([fold("user=a", 2)], 1, 1050)
    assert records.unsent()[0][:1] == first[0]
    records.settle(0, 1)
    assert [event.n for event in read(records.unsent()[0])] == [2]
    records.settle(0, 1)
    assert records.unsent() == {}


def test_a_record_stays_below_half_a_megabyte() -> None:
    records = FoldRecords("e1/0/b")
    large = Fold(
        "user=" + "x" * 250, "a" * 128, "p" * 64, "l" * 64, 2**53, 2**53, 2**53, 2**53, tuple([2**48 - 1] * 64),
        attributes={f"k{i}" * 8: "v" * 1024 for i in range(1)},
    )  # fmt: skip
    records.add([large] * 1000, 1, 1000)
    assert max(len(record) for record in records.unsent()[0]) <= 512 * 1024
    assert sum(len(event.folds) for event in read(records.unsent()[0])) == 1000
    assert len(msgspec.json.encode(large)) > 1000


def test_a_record_of_the_largest_folds_that_callers_can_cause_stays_below_half_a_megabyte() -> None:
    records = FoldRecords("e1/0/b")
    largest = Fold(
        "user=" + "x" * 256,
        "a" * 128,
        "p" * 64,
        "l" * 64,
        1,
        1,
        1,
        1,
        (),
        attributes={f"k{i}": "\x01" * 1024 for i in range(8)},
    )
    records.add([largest] * 200, 1, 1000)
    assert max(len(record) for record in records.unsent()[0]) <= 512 * 1024
