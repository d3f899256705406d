"""A FastAPI application behind the middleware and the decorator: ``uvicorn examples.shop:app`` with ``ENFORCER=host:port``.

Every route has an action of its own, ``GET:/items/{name}``; the report costs ten tokens of the action ``report``. FastAPI and
uvicorn are yours to install.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from enforcer.client import AsyncClient
from enforcer.client.asgi import RateLimitMiddleware
from enforcer.client.endpoint import limited
from enforcer.client.guard import Scope
from enforcer.client.routes import name_route


def find_user(scope: Scope) -> str | None:
    """Take the user from a header; real applications take it from their session."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-user"), None)


def name_action(scope: Scope) -> str | None:
    """Leave the report to its decorator, and health to nobody."""
    return None if scope["path"] in {"/report", "/healthz"} else name_route(scope)


def create_app(client: AsyncClient) -> FastAPI:
    """Make the application; it closes ``client`` when it ends."""

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(title="Shop", lifespan=live)
    app.add_middleware(
        RateLimitMiddleware,
        client=client,
        user=find_user,
        action=name_action,
        trusted_proxies=["127.0.0.0/8", "::1"],
        has_older_headers=True,
    )

    @app.get("/items/{name}")
    async def read_item(name: str) -> dict[str, str]:
        return {"name": name}

    @app.get("/report")
    @limited(client, action="report", user=find_user, cost=10)
    def make_report(days: int = 7) -> dict[str, int]:
        return {"days": days}

    @app.get("/healthz")
    async def tell_health() -> dict[str, str]:
        return {"status": "ok"}

    return app


app = create_app(AsyncClient(os.environ.get("ENFORCER", "127.0.0.1:50051"), without_enforcer={"report": "deny", "*": "allow"}))
