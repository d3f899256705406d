from __future__ import annotations

import pytest

from enforcer.admin.admin_requests import (
    RequestRefused,
    read_action,
    read_change,
    read_duration_ms,
    read_page,
    read_scope,
    read_subject,
)
from ratchet.v1.admin_pb2 import Change, ListBansRequest, Subject
from tests.unit.enforcer.builders import POLICIES_IN_FORCE

ID = "0123456789abcdef"
HASHED = f"user=#{'0a' * 32}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change(reason="x"), "change.request_id is ''; 16 to 64 bytes of printable ASCII without spaces are allowed"),
        (
            Change(request_id=ID[1:], reason="x"),
            "change.request_id is '123456789abcdef'; 16 to 64 bytes of printable ASCII without spaces are allowed",
        ),
        (
            Change(request_id=f"{ID} é", reason="x"),
            "change.request_id is '0123456789abcdef é'; 16 to 64 bytes of printable ASCII without spaces are allowed",
        ),
        (Change(request_id=ID), "change.reason is empty; 1 to 512 bytes are allowed"),
        (Change(request_id=ID, reason=" \n"), "change.reason is empty; 1 to 512 bytes are allowed"),
        (Change(request_id=ID, reason="é" * 257), "change.reason has 514 bytes; 1 to 512 bytes are allowed"),
    ],
)
def test_change_without_an_id_or_a_reason_is_refused(change: Change, message: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_change(change)
    assert str(refused.value) == message


def test_change_is_read_at_its_bounds() -> None:
    for request_id, reason in ((ID, "x"), ("!" * 64, "é" * 256)):
        assert read_change(Change(request_id=request_id, reason=reason)) == (request_id, reason)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (Subject(), "subject.kind is ''; the policies in force declare user, ip"),
        (Subject(kind="card", value="1"), "subject.kind is 'card'; the policies in force declare user, ip"),
        (Subject(kind="user"), "subject.value has 0 bytes; 1 to 1024 bytes are allowed"),
        (Subject(kind="user", value="a" * 1025), "subject.value has 1025 bytes; 1 to 1024 bytes are allowed"),
        (Subject(kind="user", name="user=a"), "subject has a name beside kind and value; either is allowed"),
        (Subject(name="user=a b"), "subject.name is 'user=a b', which is no kind=value as it is printed in bans"),
        (Subject(name="user"), "subject.name is 'user', which is no kind=value as it is printed in bans"),
        (Subject(name="card=1"), "subject.kind is 'card'; the policies in force declare user, ip"),
    ],
)
def test_nobody_and_unknown_kinds_are_refused(subject: Subject, message: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_subject(subject, POLICIES_IN_FORCE)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (Subject(kind="user", value="a b"), "user=a%20b"),
        (Subject(kind="user", value="2001:DB8::1"), "user=2001:DB8::1"),
        (Subject(kind="ip", value="2001:DB8::1"), "ip=2001:db8::/64"),
        (Subject(kind="ip", value="2001:db8::/64"), "ip=2001:db8::/64"),
        (Subject(name=HASHED), HASHED),
    ],
)
def test_subject_is_named_as_checks_name_it(subject: Subject, name: str) -> None:
    assert read_subject(subject, POLICIES_IN_FORCE) == name


def test_ban_without_scope_is_of_all_actions() -> None:
    assert read_scope([]) == ("*",)
    assert read_scope(["login", "api/*", "login"]) == ("login", "api/*")


@pytest.mark.parametrize(
    ("globs", "message"),
    [
        (["a"] * 17, "scope has 17 globs; at most 16 are allowed"),
        (["a", 'b"'], "scope[1] is 'b\"'; 1 to 128 letters, digits, any of _ . : / @ + - and * are allowed"),
        ([""], "scope[0] is ''; 1 to 128 letters, digits, any of _ . : / @ + - and * are allowed"),
    ],
)
def test_scope_that_is_none_is_refused(globs: list[str], message: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_scope(globs)
    assert str(refused.value) == message


@pytest.mark.parametrize("duration_ms", [-1, 0, 999, 31_622_400_001])
def test_duration_out_of_bounds_is_refused(duration_ms: int) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_duration_ms(duration_ms)
    assert str(refused.value) == (
        f"duration_ms is {duration_ms}; 1000 (1 second) to 31622400000 (366 days) are allowed"
    )  # fmt: skip


def test_duration_is_read_at_its_bounds() -> None:
    assert [read_duration_ms(bound) for bound in (1_000, 31_622_400_000)] == [1_000, 31_622_400_000]


def test_action_is_optional_and_one_that_a_check_could_have() -> None:
    assert [read_action(action) for action in ("", "login")] == ["", "login"]
    with pytest.raises(RequestRefused) as refused:
        read_action("log in")
    assert str(refused.value) == "action is 'log in'; 1 to 128 printable ASCII characters without spaces are allowed"


def test_page_has_a_hundred_bans_unless_told_and_begins_where_the_one_before_ended() -> None:
    assert read_page(ListBansRequest()) == ("", 100)
    assert read_page(ListBansRequest(page_size=7, page_token="0:12")) == ("0:12", 7)
    for request, message in (
        (ListBansRequest(page_size=1001), "page_size is 1001; 1 to 1000 are allowed, and 0 for 100"),
        (ListBansRequest(page_token="0"), "page_token is '0'; what the page before ended with is allowed"),
        (ListBansRequest(page_token="x"), "page_token is 'x'; what the page before ended with is allowed"),
    ):
        with pytest.raises(RequestRefused) as refused:
            read_page(request)
        assert str(refused.value) == message
