"""The fast structs are the models, field for field, and what they encode validates."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from topics import events, wire
from topics.codec import decode

STRUCTS = [value for value in vars(wire).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)]
_NONE = object()


def list_struct_fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for each in msgspec.structs.fields(struct):
        if each.default is not msgspec.NODEFAULT:
            fields[each.name] = each.default
        elif each.default_factory is not msgspec.NODEFAULT:
            fields[each.name] = each.default_factory()
        else:
            fields[each.name] = _NONE
    return fields


def list_model_fields(model: type[BaseModel]) -> dict[str, Any]:
    return {name: _NONE if each.is_required() else each.default for name, each in model.model_fields.items() if name != "type"}


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_struct_and_model_have_the_same_fields_and_defaults(struct: type[msgspec.Struct]) -> None:
    model: type[BaseModel] = getattr(events, struct.__name__)
    assert list_struct_fields(struct) == list_model_fields(model)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_struct_has_the_tag_of_the_model(struct: type[msgspec.Struct]) -> None:
    tag = getattr(events, struct.__name__).model_fields.get("type")
    assert struct.__struct_config__.tag == (tag.default if tag is not None else None)


FOLD = wire.Fold("user=a", "login", "login", "per_user", 3, 1, 2)
FULL_FOLD = wire.Fold("ip=::/64", "login", "login", "per_ip", 3, 1, 2, 4, (2**48 - 1,), (5,), {"agent": "🦊"})
DECISION = wire.DecisionEvent("s", 1, 2, "a", "login", "login", "abc", "allow", "ok")
FULL_DECISION = wire.DecisionEvent(
    *("s", 1, 2, "a\n🦊", "login", "login", "abc", "ban", "banned", 1, {"ip": "x"}, ("l:a",), ("l:b",), True, True),
    *(5, 6, 7, 8, 9, 10, "v1", ("l:a",)),
)


@pytest.mark.parametrize(
    ("topic", "event"),
    [
        ("decisions", DECISION),
        ("decisions", FULL_DECISION),
        ("decisions", wire.GapEvent("s", ((1, 2), (4, 4)), 5, "buffer_full")),
        ("decisions", wire.HeartbeatEvent("s", 0, 5)),
        ("decisions", wire.ClosedEvent("s", 3, 5)),
        ("denials", wire.FoldsEvent("s", 1, 5, [FOLD, FULL_FOLD])),
        ("denials", wire.HeartbeatEvent("s", 0, 5)),
        ("denials", wire.ClosedEvent("s", 3, 5)),
        ("outcomes", wire.OutcomeEvent("s", 1, "login", 2000, 1)),
        ("outcomes", wire.OutcomeEvent("s", 1, "login", 2000, 3, 1, 2, {0: 1, 460: 2})),
        ("outcomes", wire.LoadEvent("s", 1, "login", 2000, 3, 2, 166)),
        ("outcomes", wire.HeartbeatEvent("s", 0, 5)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_a_struct_encodes_is_the_event_of_the_model(topic: str, event: msgspec.Struct) -> None:
    decoded = decode(topic, msgspec.json.encode(event))
    assert type(decoded).__name__ == type(event).__name__
    expected = msgspec.to_builtins(event, builtin_types=())
    for name in event.__struct_fields__:
        seen, meant = getattr(decoded, name), getattr(event, name)
        if name == "folds":
            for fold, wire_fold in zip(seen, meant, strict=True):
                assert fold.model_dump() == {each: getattr(wire_fold, each) for each in wire_fold.__struct_fields__}
        else:
            assert seen == meant
    assert expected["type"] == decoded.model_dump()["type"]


def test_fields_that_have_their_default_are_left_out() -> None:
    assert msgspec.json.encode(DECISION) == (
        b'{"type":"decision","source":"s","seq":1,"decided_at_ms":2,"user_id":"a","action":"login","policy":"login",'
        b'"policy_version":"abc","outcome":"allow","reason":"ok"}'
    )
