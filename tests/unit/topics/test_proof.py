from __future__ import annotations

from dataclasses import replace

import pytest

from topics.audit import Account, AuditReport, BadRecord, Found
from topics.proof import say_report

CLEAN = Account("a/0/1", None, "closed", 1, 1200, 1200, Found(), Found(), Found(), Found(), 0, 5, ())
REPORT = AuditReport("decisions", 1200, (CLEAN,), 0, (), {})


def told(report: AuditReport) -> list[str]:
    return ["".join(text for text, _ in line) for line in say_report(report)]


def test_a_clean_audit_says_so_in_two_lines() -> None:
    assert told(REPORT) == [
        "closed   a/0/1 proven 1-1,200, 1,200 read",
        "decisions: 1,200 records of 1 sources: nothing missing, nothing doubled",
    ]


def test_an_empty_topic_proves_nothing() -> None:
    assert told(AuditReport("decisions", 0, (), 0, (), {})) == ["decisions: 0 records of 0 sources: nothing to prove"]


def test_an_open_source_tells_its_tail_and_its_last_heartbeat() -> None:
    lines = told(replace(REPORT, accounts=(replace(CLEAN, state="open", tail=3),)))
    assert lines[0].endswith("1,200 read, 3 in its unknown tail, last heartbeat 1970-01-01 00:00:00.005Z")


def test_an_unproven_source_names_the_partitions_without_a_heartbeat() -> None:
    silent = replace(CLEAN, state="unproven", first=1, last=0, last_mark_ms=None, silent_partitions=(2, 5))
    lines = told(replace(REPORT, accounts=(silent,)))
    assert "proven nothing" in lines[0]
    assert lines[0].endswith("no heartbeat; no heartbeat in partitions 2, 5")


@pytest.mark.parametrize(
    ("faulty", "line"),
    [
        (replace(CLEAN, missing=Found(((3, 3), (7, 9)), 4)), "          4 missing: 3, 7-9"),
        (replace(CLEAN, doubled=Found(((3, 3),), 1)), "          1 doubled: 3"),
        (replace(CLEAN, beyond=Found(((1201, 1300),), 100)), "          100 beyond its closing number: 1201-1300"),
        (
            replace(CLEAN, missing=Found(tuple((n, n) for n in range(0, 200, 2)), 500)),
            "          500 missing: 0, 2, 4, 6, 8, 10, 12, 14, 16, 18 and 490 more",
        ),
    ],
)
def test_a_fault_is_listed_with_its_ranges(faulty: Account, line: str) -> None:
    lines = told(replace(REPORT, accounts=(faulty,)))
    assert lines[0].startswith("FAULTY   a/0/1")
    assert lines[1] == line
    assert lines[-1].endswith("FAULTY: 1 of 1 runs of numbers, 0 undecodable")


def test_announced_drops_and_retention_are_told_and_are_no_fault() -> None:
    dropped = replace(CLEAN, announced=Found(((5, 9),), 5))
    lines = told(replace(REPORT, accounts=(dropped,), edges={3: 17}))
    assert "          5 dropped and announced: 5-9" in lines
    assert any("partitions: 3 from offset 17" in line for line in lines)
    assert lines[-1].endswith("nothing missing but what its sources announced as dropped, nothing doubled")


def test_bad_records_are_listed_and_the_rest_is_counted() -> None:
    lines = told(replace(REPORT, undecodable=3, bad_records=(BadRecord(1, 2, "bad\n"),)))
    assert "undecodable decisions/1/2: bad\\n" in lines
    assert "and 2 more undecodable records" in lines


def test_sources_of_denials_are_told_by_partition_and_counted_once() -> None:
    lines = told(AuditReport("denials", 2, (replace(CLEAN, partition=0), replace(CLEAN, partition=1)), 0, (), {}))
    assert lines[0].startswith("closed   a/0/1 partition 0 ")
    assert lines[-1].startswith("denials: 2 records of 1 sources")
