"""HTTP requests to checks, decisions to answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enforcer.client import Decision, NoDecision, NotPermitted
from enforcer.client.guard import Guard, Scope
from enforcer.limits.check import InvalidCheck
from tests.unit.enforcer.client.fake_client import FakeClient, decide_by_user


def make_scope(peer: str | None = "203.0.113.7", **headers: str) -> Scope:
    fields = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "client": None if peer is None else (peer, 4711), "headers": fields}


def find_user(scope: Scope) -> str | None:
    return next((value.decode() for name, value in scope["headers"] if name == b"x-user"), None)


@pytest.fixture
async def client() -> FakeClient:
    return FakeClient(decide_by_user)


async def test_user_and_address_are_asked_about(client: FakeClient) -> None:
    guard = Guard(client=client, user=find_user, cost=3, attributes=lambda _: {"agent": "x"})
    assert (await guard.ask(make_scope(x_user="alice"), "login")).status == 200
    assert client.asked == [("alice", "login", 3, {"ip": "203.0.113.7", "agent": "x"})]


async def test_user_may_be_found_asynchronously(client: FakeClient) -> None:
    async def find(_: Scope) -> str:
        return "bob"

    await Guard(client=client, user=find).ask(make_scope(), "login")
    assert client.asked[0][0] == "bob"


@pytest.mark.parametrize(
    ("peer", "counted_for"), [("203.0.113.7", "203.0.113.7"), ("2001:db8::1", "2001:db8::/64"), (None, "unknown")]
)
async def test_who_did_not_log_in_is_counted_for_his_address(client: FakeClient, peer: str | None, counted_for: str) -> None:
    await Guard(client=client, user=find_user).ask(make_scope(peer), "login")
    assert client.asked == [(counted_for, "login", 1, {"ip": counted_for})]


async def test_only_trusted_proxies_are_believed(client: FakeClient) -> None:
    scope = make_scope("10.0.0.1", x_forwarded_for="1.1.1.1, 198.51.100.1")
    await Guard(client=client, user=find_user).ask(scope, "login")
    await Guard(client=client, user=find_user, trusted_proxies=["10.0.0.0/8"]).ask(scope, "login")
    assert [asked[3]["ip"] for asked in client.asked] == ["10.0.0.1", "198.51.100.1"]


@pytest.mark.parametrize(
    ("user", "status", "headers"),
    [
        ("alice", 200, {"X-Ratchet-Outcome": "allow"}),
        ("denied", 429, {"X-Ratchet-Outcome": "deny", "Retry-After": "2"}),
        ("banned", 403, {"X-Ratchet-Outcome": "ban", "Retry-After": "60"}),
        ("open", 200, {"X-Ratchet-Fail-Open": "unavailable"}),
        ("closed", 503, {"Retry-After": "1"}),
    ],
)
async def test_each_outcome_has_its_status_headers_and_problem(
    client: FakeClient, user: str, status: int, headers: dict[str, str]
) -> None:
    answer = await Guard(client=client, user=lambda _: user).ask(make_scope(), "login")
    assert (answer.status, {**answer.headers, **headers}) == (status, answer.headers)
    if status == 200:
        assert answer.body == b""
    else:
        assert json.loads(answer.body)["status"] == status
        assert answer.headers["Content-Type"] == "application/problem+json"


async def test_older_headers_stand_beside_the_drafts_on_request(client: FakeClient) -> None:
    answer = await Guard(client=client, user=find_user, has_older_headers=True).ask(make_scope(), "login")
    assert {"RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} <= answer.headers.keys()


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (InvalidCheck("user_id is empty"), 400, "user_id is empty"),
        (NotPermitted("permission denied: role check is needed"), 503, "There is no decision about this request."),
        (NoDecision("unavailable"), 503, "There is no decision about this request (unavailable)."),
    ],
)
async def test_nothing_passes_by_an_exception(error: Exception, status: int, detail: str) -> None:
    def fail(_: str) -> Decision:
        raise error

    answer = await Guard(client=FakeClient(fail), user=find_user).ask(make_scope(), "login")
    problem: dict[str, Any] = json.loads(answer.body)
    assert (answer.status, problem["status"], problem["detail"]) == (status, status, detail)
    assert ("Retry-After" in answer.headers) == (status == 503)
