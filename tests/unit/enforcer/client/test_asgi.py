"""The middleware around applications of both frameworks and of none."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from enforcer.client.asgi import Application, Message, RateLimitMiddleware, Receive, Send
from enforcer.client.guard import Scope
from tests.unit.enforcer.client.fake_client import FakeClient, decide_by_user


@pytest.fixture
async def client() -> FakeClient:
    return FakeClient(decide_by_user)


def find_user(scope: Scope) -> str | None:
    return next((value.decode() for name, value in scope["headers"] if name == b"x-user"), None)


def make_app() -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/items/{name}")
    async def read(name: str) -> dict[str, str]:
        if name == "broken":
            raise RuntimeError("as told")
        return {"name": name}

    @app.get("/slow", status_code=504)
    async def time_out() -> None:
        return None

    return app


async def call(app: Application, path: str, user: str = "alice", *, raises: bool = True) -> httpx.Response:
    transport = httpx.ASGITransport(app, client=("203.0.113.7", 4711), raise_app_exceptions=raises)
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as http:
        return await http.get(path, headers={"x-user": user})


async def test_allowed_request_is_served_with_headers_and_observed(client: FakeClient) -> None:
    app = make_app()
    app.add_middleware(RateLimitMiddleware, client=client, user=find_user)
    response = await call(app, "/items/tea")
    assert (response.status_code, response.json()) == (200, {"name": "tea"})
    assert response.headers["ratelimit"] == '"per_user";r=4;t=1'
    assert response.headers["ratelimit-policy"] == '"per_user";q=5'
    assert client.asked == [("alice", "GET:/items/{name}", 1, {"ip": "203.0.113.7"})]
    assert client.observed == [("GET:/items/{name}", False, False)]


@pytest.mark.parametrize(("user", "status"), [("denied", 429), ("banned", 403), ("closed", 503)])
async def test_refused_request_never_reaches_the_application_and_is_not_observed(
    client: FakeClient, user: str, status: int
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("reached")

    response = await call(RateLimitMiddleware(app, client, user=find_user, action=lambda _: "x"), "/", user)
    assert response.status_code == response.json()["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) >= 1
    assert client.observed == []


async def test_failures_and_timeouts_of_the_application_are_observed(client: FakeClient) -> None:
    app = RateLimitMiddleware(make_app(), client, user=find_user, action=lambda scope: scope["path"])
    assert (await call(app, "/items/broken", raises=False)).status_code == 500
    assert (await call(app, "/slow")).status_code == 504
    assert (await call(app, "/nothing")).status_code == 404
    assert client.observed == [("/items/broken", True, False), ("/slow", True, True), ("/nothing", False, False)]


async def test_cancelled_request_says_nothing_of_the_application(client: FakeClient) -> None:
    started = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await asyncio.Event().wait()

    request = asyncio.create_task(call(RateLimitMiddleware(app, client, user=find_user, action=lambda _: "x"), "/"))
    await started.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert client.observed == []


async def test_what_has_no_action_and_what_is_no_http_passes_unasked(client: FakeClient) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> Message:
        raise AssertionError("nothing to receive")

    async def send(_: Message) -> None:
        raise AssertionError("nothing to send")

    guarded = RateLimitMiddleware(app, client, user=find_user, action=lambda _: None)
    for kind in ("http", "websocket", "lifespan"):
        await guarded({"type": kind}, receive, send)
    assert (seen, client.asked) == (["http", "websocket", "lifespan"], [])


def test_a_proxy_that_is_no_network_is_refused_at_the_start(client: FakeClient) -> None:
    with pytest.raises(ValueError, match="'proxy' does not appear to be an IPv4 or IPv6 network"):
        RateLimitMiddleware(make_app(), client, user=find_user, trusted_proxies=["proxy"])
