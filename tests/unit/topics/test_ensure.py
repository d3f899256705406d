from __future__ import annotations

from dataclasses import replace

import pytest

from topics.ensure import Difference, Report, TopicState, compare
from topics.specs import DECISIONS, SUBJECTS

SOUND = TopicState(DECISIONS.partitions, 1, DECISIONS.configure(1))


def change(**config: str) -> TopicState:
    return replace(SOUND, config={**SOUND.config, **{key.replace("_", "."): value for key, value in config.items()}})


def test_a_topic_as_its_spec_has_no_difference() -> None:
    assert compare(DECISIONS, SOUND, 1) == ()


@pytest.mark.parametrize(
    "state",
    [
        replace(SOUND, partitions=4),
        change(retention_ms="1000"),
        change(cleanup_policy="compact"),
        change(max_message_bytes="1000"),
        replace(SOUND, replication=1, config=DECISIONS.configure(1)),
    ],
)
def test_what_keeps_less_than_the_spec_is_harmful_and_says_what_to_do(state: TopicState) -> None:
    (difference,) = compare(DECISIONS, state, 3 if state == SOUND else 1)
    assert difference.is_harmful
    assert difference.remedy.startswith("kafka-")
    assert not Report((), {}, (difference,)).is_sound


@pytest.mark.parametrize(
    "state",
    [replace(SOUND, partitions=16), change(retention_ms="-1"), change(retention_ms=str(10**12)), change(segment_ms="1000")],
)
def test_what_keeps_more_is_told_and_left_alone(state: TopicState) -> None:
    (difference,) = compare(DECISIONS, state, 1)
    assert not difference.is_harmful
    assert Report((), {}, (difference,)).is_sound


def test_more_replicas_than_live_brokers_are_no_difference() -> None:
    assert compare(DECISIONS, replace(SOUND, replication=3, config=DECISIONS.configure(3)), 2) == ()


def test_states_that_expire_are_harmful() -> None:
    config = {**SUBJECTS.configure(1), "retention.ms": "604800000"}
    expected = Difference("subjects", "retention.ms", "-1", "604800000", True)
    (found,) = compare(SUBJECTS, TopicState(SUBJECTS.partitions, 1, config), 1)
    assert replace(found, remedy="") == expected
