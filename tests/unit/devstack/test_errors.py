from __future__ import annotations

from devstack.errors import DevstackError


def test_an_error_says_what_is_wrong_and_then_what_to_do() -> None:
    assert str(DevstackError("the disk is full", "Free some.")) == "the disk is full. Free some."
    assert str(DevstackError("the disk is full")) == "the disk is full"
