from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from topics.codec import decode
from topics.dead_letters import LARGEST_PART_BYTES, bury, name_origin
from topics.events import DeadLetter
from topics.specs import LARGEST_RECORD_BYTES


@dataclass(frozen=True)
class Consumed:
    value: bytes | None
    key: bytes | None = b"user=alice"
    topic: str = "denials"
    partition: int = 3
    offset: int = 17


def unearth(value: bytes) -> DeadLetter:
    event = decode("dead_letters", value)
    assert isinstance(event, DeadLetter)
    return event


@given(st.none() | st.binary(max_size=50), st.none() | st.binary(max_size=50), st.text())
def test_any_record_and_any_error_can_be_buried(value: bytes | None, key: bytes | None, error: str) -> None:
    letter = unearth(bury(Consumed(value, key), error, at_ms=5))
    assert b64decode(letter.value_base64) == (value or b"")
    assert b64decode(letter.key_base64) == (key or b"")
    assert (letter.topic, letter.partition, letter.offset, letter.at_ms) == ("denials", 3, 17, 5)


def test_an_error_is_named_by_its_kind_and_may_hold_what_is_no_text() -> None:
    assert unearth(bury(Consumed(b""), ValueError("bad \ud800"), at_ms=5)).error == "ValueError: bad \\ud800"


def test_the_largest_record_makes_a_dead_letter_that_its_topic_takes() -> None:
    huge = bytes(LARGEST_RECORD_BYTES)
    buried = bury(Consumed(huge, huge), "x" * 10_000, at_ms=5)
    letter = unearth(buried)
    assert len(buried) < LARGEST_RECORD_BYTES / 4
    assert len(b64decode(letter.value_base64)) == LARGEST_PART_BYTES
    assert letter.value_bytes == LARGEST_RECORD_BYTES


def test_a_record_that_is_buried_twice_has_one_key() -> None:
    assert name_origin(Consumed(b"")) == b"denials/3/17"
