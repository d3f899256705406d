"""Bounds of a check."""

from __future__ import annotations

import pytest

from enforcer.limits.check import Check, InvalidCheck, validate_check
from tests.unit.enforcer.builders import ODD_IDS


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_odd_ids_are_allowed_as_they_are(user_id: str) -> None:
    assert validate_check(user_id, "login", 1, {}, 0).user_id == user_id


@pytest.mark.parametrize(
    ("user_id", "action", "cost", "attributes", "message"),
    [
        ("", "login", 1, {}, "user_id is empty; 1 to 1024 bytes are allowed"),
        ("a" * 1025, "login", 1, {}, "user_id has 1025 bytes; 1 to 1024 bytes are allowed"),
        ("é" * 513, "login", 1, {}, "user_id has 1026 bytes; 1 to 1024 bytes are allowed"),
        ("a", "", 1, {}, "action '' is not 1 to 128 printable ASCII characters without spaces"),
        ("a", "log in", 1, {}, "action 'log in' is not 1 to 128 printable ASCII characters without spaces"),
        ("a", "login\n", 1, {}, "action 'login\\n' is not 1 to 128 printable ASCII characters without spaces"),
        ("a", "é", 1, {}, "action 'é' is not 1 to 128 printable ASCII characters without spaces"),
        ("a", "x" * 129, 1, {}, f"action '{'x' * 64}' is not 1 to 128 printable ASCII characters without spaces"),
        ("a", "login", -1, {}, "cost is -1; whole tokens >= 0 are allowed"),
        ("a", "login", 1, {f"k{i}": "v" for i in range(17)}, "attributes has 17 entries; at most 16 are allowed"),
        *[
            (
                "a",
                "login",
                1,
                {name: "v"},
                f"attributes: the key {name!r} is not allowed; 1 to 64 of a-z 0-9 _ are, but not `user` and `action`",
            )
            for name in ("user", "action", "", "Upper", "a-b", "a b", "x\n")
        ],
        ("a", "login", 1, {"agent": "é" * 513}, "attributes: agent has 1026 bytes; at most 1024 are allowed"),
    ],
)
def test_content_out_of_bounds_is_refused_with_what_is_allowed(
    user_id: str, action: str, cost: int, attributes: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidCheck) as refused:
        validate_check(user_id, action, cost, attributes, 0)
    assert str(refused.value) == message


def test_everything_at_its_bound_is_allowed() -> None:
    attributes = {f"{'k' * 62}{i:02}": "v" * 1024 for i in range(16)}
    labels = ("l" * 256,) * 32
    check = validate_check("a" * 1024, "!" + "~" * 127, 0, attributes, 1_000_000, labels)
    assert check == Check("a" * 1024, "!" + "~" * 127, 0, attributes, 1_000_000, labels)


@pytest.mark.parametrize(
    ("suppressed", "limits", "message"),
    [
        (1_000_001, (), "suppressed is 1000001; at most 1000000 are allowed"),
        (1, ("x",) * 33, "suppressed_limits has 33 entries; at most 32 are allowed"),
        (1, ("x" * 257,), f"suppressed_limits: '{'x' * 64}' has 257 characters; at most 256 are allowed"),
    ],
)
def test_what_a_client_says_it_suppressed_is_bounded(suppressed: int, limits: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidCheck) as refused:
        validate_check("alice", "login", 1, {}, suppressed, limits)
    assert str(refused.value) == message
