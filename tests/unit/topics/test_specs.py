from __future__ import annotations

import pytest

from topics.events import RECORDS
from topics.specs import DAY_MS, SPECS, SUBJECTS, TopicSpec


def test_there_is_one_spec_per_topic_that_has_events() -> None:
    assert [spec.name for spec in SPECS] == list(RECORDS)


def test_states_never_expire_and_are_compacted() -> None:
    config = SUBJECTS.configure(1)
    assert (config["retention.ms"], config["cleanup.policy"]) == ("-1", "compact")


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.cleanup == "delete"], ids=lambda spec: spec.name)
def test_segments_roll_often_enough_that_retention_holds(spec: TopicSpec) -> None:
    segment_ms = int(spec.configure(1)["segment.ms"])
    assert segment_ms <= DAY_MS
    assert segment_ms * 8 <= spec.retention_ms


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2")])
def test_one_broker_may_be_away_without_stopping_writes(replication: int, in_sync: str) -> None:
    assert SUBJECTS.configure(replication)["min.insync.replicas"] == in_sync
