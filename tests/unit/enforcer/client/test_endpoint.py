"""The decorator on endpoints of both frameworks."""

from __future__ import annotations

from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Query
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enforcer.client.endpoint import limited
from enforcer.client.guard import Scope
from tests.unit.enforcer.client.fake_client import FakeClient, decide_by_user


@pytest.fixture
async def client() -> FakeClient:
    return FakeClient(decide_by_user)


def find_user(scope: Scope) -> str | None:
    return next((value.decode() for name, value in scope["headers"] if name == b"x-user"), None)


def depend() -> str:
    return "depended"


def make_fastapi(client: FakeClient) -> FastAPI:
    app = FastAPI()

    @app.get("/bare")
    @limited(client, action="bare", user=find_user, cost=2)
    async def bare(name: Annotated[str, Query(max_length=3)], told: Annotated[str, Depends(depend)]) -> dict[str, str]:
        return {"name": name, "told": told}

    @app.get("/plain")
    @limited(client, action="plain", user=find_user)
    def plain(request: Request) -> Response:
        return JSONResponse({"path": request.url.path}, 201)

    @app.get("/failing/{status}")
    @limited(client, action="failing", user=find_user)
    async def fail(status: int) -> None:
        raise HTTPException(status)

    return app


async def call(app: FastAPI | Starlette, path: str, user: str = "alice") -> httpx.Response:
    transport = httpx.ASGITransport(app, client=("203.0.113.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as http:
        return await http.get(path, headers={"x-user": user})


async def test_endpoint_of_fastapi_keeps_its_parameters_and_need_not_take_the_request(client: FakeClient) -> None:
    app = make_fastapi(client)
    response = await call(app, "/bare?name=tea")
    assert (response.status_code, response.json()) == (200, {"name": "tea", "told": "depended"})
    assert response.headers["ratelimit"] == '"per_user";r=4;t=1'
    assert client.asked == [("alice", "bare", 2, {"ip": "203.0.113.7"})]
    assert client.observed == [("bare", False, False)]
    assert (await call(app, "/bare?name=long")).status_code == 422
    parameters = (await call(app, "/openapi.json")).json()["paths"]["/bare"]["get"]["parameters"]
    assert [parameter["name"] for parameter in parameters] == ["name"]


async def test_plain_function_that_returns_a_response_gets_the_headers_on_it(client: FakeClient) -> None:
    response = await call(make_fastapi(client), "/plain")
    assert (response.status_code, response.json()) == (201, {"path": "/plain"})
    assert response.headers["x-ratchet-outcome"] == "allow"


@pytest.mark.parametrize(("user", "status"), [("denied", 429), ("banned", 403), ("closed", 503)])
async def test_refused_request_does_not_reach_the_endpoint(client: FakeClient, user: str, status: int) -> None:
    response = await call(make_fastapi(client), "/bare?name=tea", user)
    assert response.status_code == response.json()["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert client.observed == []


async def test_what_an_endpoint_raises_is_observed_by_its_status(client: FakeClient) -> None:
    app = make_fastapi(client)
    for status in (404, 500, 504):
        assert (await call(app, f"/failing/{status}")).status_code == status
    assert client.observed == [("failing", False, False), ("failing", True, False), ("failing", True, True)]


async def test_endpoint_of_starlette_is_guarded_alike(client: FakeClient) -> None:
    @limited(client, action="star", user=find_user, has_older_headers=True)
    async def answer(request: Request) -> Response:
        return JSONResponse({"user": request.headers["x-user"]})

    app = Starlette(routes=[Route("/", answer)])
    response = await call(app, "/")
    assert (response.status_code, response.json()) == (200, {"user": "alice"})
    assert response.headers["x-ratelimit-remaining"] == "4"
    assert (await call(app, "/", "denied")).status_code == 429
