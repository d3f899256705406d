"""Actions by route, on the routers of both frameworks."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from enforcer.client.guard import Scope
from enforcer.client.routes import UNROUTED, name_route


async def answer(request: Request) -> Response:
    return PlainTextResponse("")


def make_fastapi() -> FastAPI:
    inner, outer, app = APIRouter(prefix="/in"), APIRouter(prefix="/v1"), FastAPI(openapi_url=None)

    @inner.get("/users/{id}")
    def read(id: int) -> dict[str, int]:  # noqa: A002 as applications spell it
        return {"id": id}

    @app.post("/login")
    def log_in() -> dict[str, int]:
        return {}

    outer.include_router(inner)
    app.include_router(outer)
    return app


def make_starlette() -> Starlette:
    below = [Route("/users/{id:int}", answer), Route("/odd path", answer)]
    return Starlette(routes=[Route("/login", answer, methods=["POST"]), Mount("/v1", routes=[Mount("/in", routes=below)])])


def make_scope(app: Any, method: str, path: str) -> Scope:
    return {"type": "http", "method": method, "path": path, "root_path": "", "headers": [], "app": app}


@pytest.mark.parametrize(
    ("make", "method", "path", "action"),
    [
        (make_fastapi, "POST", "/login", "POST:/login"),
        (make_fastapi, "GET", "/v1/in/users/7", "GET:/v1/in/users/{id}"),
        (make_fastapi, "GET", "/login", UNROUTED),
        (make_fastapi, "GET", "/v1/in/nothing", UNROUTED),
        (make_starlette, "POST", "/login", "POST:/login"),
        (make_starlette, "GET", "/v1/in/users/7", "GET:/v1/in/users/{id:int}"),
        (make_starlette, "GET", "/v1/in/odd path", "GET:/v1/in/odd%20path"),
        (make_starlette, "GET", "/v1/in/nothing", UNROUTED),
        (make_starlette, "FOO", "/login", UNROUTED),
    ],
)
def test_a_request_is_named_by_the_template_of_its_route(make: Any, method: str, path: str, action: str) -> None:
    assert name_route(make_scope(make(), method, path)) == action


def test_without_a_framework_nothing_is_routed() -> None:
    assert name_route({"type": "http", "method": "GET", "path": "/", "headers": []}) == UNROUTED
