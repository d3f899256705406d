from __future__ import annotations

import pytest

from topics.codec import Undecodable, decode, encode
from topics.events import HeartbeatEvent


def test_an_event_comes_back_as_it_was() -> None:
    event = HeartbeatEvent(source="a/0/1", seq=3, at_ms=5)
    assert decode("decisions", encode(event)) == event
    assert decode("denials", encode(event)) == event


@pytest.mark.parametrize(
    ("topic", "value", "message"),
    [
        ("decisions", None, "no value"),
        ("decisions", b"{", "Invalid JSON"),
        ("outcomes", b'{"type":"folds"}', "does not match any of the expected tags"),
        ("subjects", b'{"subject":"user=a"}', "state: Field required"),
        ("dead_letters", b'{"topic":"x","extra":1}', "more)"),
    ],
)
def test_an_error_is_one_line_that_names_the_field(topic: str, value: bytes | None, message: str) -> None:
    with pytest.raises(Undecodable) as error:
        decode(topic, value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_long_value_is_not_quoted_whole() -> None:
    with pytest.raises(Undecodable) as error:
        decode("subjects", b'"' + b"x" * 100_000 + b'"')
    assert len(str(error.value)) < 300
