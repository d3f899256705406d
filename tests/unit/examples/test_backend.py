import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from aiohttp.test_utils import TestClient, TestServer

from examples.actors import password_of
from examples.backend import create_app, open_client
from ratchet.v1 import enforcer_pb2
from tests.unit.examples.fake_enforcer import Decide, run_fake_enforcer

ALLOW = enforcer_pb2.CheckResponse(outcome=enforcer_pb2.OUTCOME_ALLOW, reason=enforcer_pb2.REASON_OK)
DENY = enforcer_pb2.CheckResponse(
    outcome=enforcer_pb2.OUTCOME_DENY,
    reason=enforcer_pb2.REASON_LIMIT,
    retry_after_ms=12_000,
    limits=[enforcer_pb2.LimitStatus(policy="login", name="per_user", capacity=5, retry_after_ms=12_000, refused=True)],
)
BAN = enforcer_pb2.CheckResponse(
    outcome=enforcer_pb2.OUTCOME_BAN,
    reason=enforcer_pb2.REASON_BANNED,
    retry_after_ms=60_000,
    ban=enforcer_pb2.Ban(until_ms=1_700_000_000_000, rule="brute_force", level=1, scope=["login"]),
)


@asynccontextmanager
async def backend(decide: Decide) -> AsyncIterator[TestClient]:  # type: ignore[type-arg]
    async with run_fake_enforcer(decide) as address:
        app = create_app(open_client(address, 5))
        async with TestClient(TestServer(app)) as client:
            yield client


def log_in(user: str, password: str) -> dict[str, dict[str, str]]:
    return {"json": {"user": user, "password": password}}


async def test_right_password_is_served_with_what_the_enforcer_said() -> None:
    async with backend(lambda _: ALLOW) as client:
        response = await client.post("/login", **log_in("alice", password_of("alice")))  # type: ignore[arg-type]
        assert (response.status, response.headers["x-ratchet-outcome"]) == (200, "allow")


async def test_wrong_password_is_401_after_the_enforcer_allowed_it() -> None:
    async with backend(lambda _: ALLOW) as client:
        response = await client.post("/login", **log_in("alice", "wrong"))  # type: ignore[arg-type]
        assert (response.status, response.headers["x-ratchet-outcome"]) == (401, "allow")


@pytest.mark.parametrize(("decision", "status", "wait"), [(DENY, 429, "12"), (BAN, 403, "60")])
async def test_refusal_is_told_as_a_problem_and_no_password_is_looked_at(
    decision: enforcer_pb2.CheckResponse, status: int, wait: str
) -> None:
    async with backend(lambda _: decision) as client:
        response = await client.post("/login", **log_in("alice", password_of("alice")))  # type: ignore[arg-type]
        assert (response.status, response.content_type) == (status, "application/problem+json")
        assert response.headers["Retry-After"] == wait
        assert "token" not in await response.text()


async def test_enforcer_is_told_user_action_and_the_address_that_a_proxy_on_loopback_names() -> None:
    asked: list[enforcer_pb2.CheckRequest] = []

    def decide(request: enforcer_pb2.CheckRequest) -> enforcer_pb2.CheckResponse:
        asked.append(request)
        return ALLOW

    async with backend(decide) as client:
        await client.get("/search", params={"q": "tea"}, headers={"x-user": "bob", "x-forwarded-for": "2001:db8::7"})
        await client.get("/search")
    assert [(one.user_id, one.action, one.attributes["ip"]) for one in asked] == [
        ("bob", "search", "2001:db8::/64"),
        ("anonymous", "search", "127.0.0.1"),
    ]


async def test_request_is_served_and_marked_while_the_enforcer_is_away() -> None:
    async with backend(lambda _: grpc.StatusCode.UNAVAILABLE) as client:
        response = await client.get("/search", params={"q": "tea"})
        assert (response.status, response.headers["x-ratchet-fail-open"]) == (200, "unavailable")


async def test_request_that_the_enforcer_calls_wrong_is_not_served() -> None:
    async with backend(lambda _: grpc.StatusCode.INVALID_ARGUMENT) as client:
        response = await client.get("/search", params={"q": "tea"}, headers={"x-user": "u" * 2000})
        assert response.status == 400
        assert "results" not in await response.text()


async def test_decision_of_an_unknown_kind_is_a_denial_and_not_a_pass() -> None:
    async with backend(lambda _: enforcer_pb2.CheckResponse()) as client:
        assert (await client.get("/search")).status == 429


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"user": "a"}', b'{"user": "", "password": ""}', b'{"user": 1, "password": "x"}', b"\xff"],
)
async def test_body_that_is_no_login_is_told_what_is_expected(body: bytes) -> None:
    async with backend(lambda _: ALLOW) as client:
        response = await client.post("/login", data=body, headers={"content-type": "application/json"})
        assert response.status == 400
        assert "user" in json.loads(await response.read())["detail"]


async def test_health_asks_nobody() -> None:
    async with backend(lambda _: grpc.StatusCode.INTERNAL) as client:
        assert (await client.get("/healthz")).status == 200


async def test_surrogates_and_bad_utf_8_do_not_reach_the_enforcer() -> None:
    async with backend(lambda _: ALLOW) as client:
        response = await client.post(
            "/login", data=b'{"user": "\\ud800", "password": "x"}', headers={"content-type": "application/json"}
        )
        assert response.status == 400
