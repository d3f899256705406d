from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.records import UndecodableRecord, decode_denials
from lua.keys import name_subject
from topics import wire
from topics.events import Fold, FoldsEvent


def encode(subject: str, first_ms: int = 1, last_ms: int = 2) -> bytes:
    fold = Fold(subject=subject, action="a", policy="p", limit="l", count=1, first_ms=first_ms, last_ms=last_ms)
    return FoldsEvent(source="s", n=1, at_ms=2, folds=(fold,)).model_dump_json().encode()


@given(kind=st.sampled_from(["user", "ip", "api_key2"]), value=st.text(max_size=400))
def test_every_subject_that_can_be_named_is_read(kind: str, value: str) -> None:
    record = decode_denials(encode(name_subject(kind, value)))
    assert isinstance(record, wire.FoldsEvent)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xff",
        b"[]",
        b'{"type":"folds"}',
        b'{"type":"decision"}',
        encode('user=a"b'),
        encode("user=a\\u0022"),
        encode("alice"),
        encode("=a"),
        encode("user={x}"),
        encode("user=a b"),
        encode("user=a", first_ms=3, last_ms=2),
        encode("user=a").replace(b'"count":1', b'"count":0'),
        encode("user=a").replace(b'"count":1', b'"count":1,"extra":1'),
    ],
)
def test_what_no_enforcer_writes_is_undecodable(value: bytes | None) -> None:
    with pytest.raises(UndecodableRecord) as caught:
        decode_denials(value)
    assert str(caught.value)
