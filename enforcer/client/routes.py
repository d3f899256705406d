"""Name the action of a request by its route, as Starlette and FastAPI know it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from enforcer.client.guard import Scope
from enforcer.limits.check import LARGEST_ACTION_BYTES

UNROUTED = "unrouted"
"""Action of requests that no route takes: whoever looks for doors is limited too, and makes no actions of their own."""

_FULL = 2
"""Starlette's ``Match.FULL``."""


def name_route(scope: Scope) -> str:
    """Name a request by method and path template: ``GET:/users/{id}``.

    A template, and not the path, so that actions stay few and one user's requests for many things are limited together.

    Args:
        scope: Of a request that a Starlette or FastAPI application got.
    """
    application = scope.get("app")
    template = _find_template(getattr(application, "routes", ()), scope)
    if template is None:
        return UNROUTED
    return f"{scope['method']}:{quote(template, safe='/{}:')}"[:LARGEST_ACTION_BYTES]


def _find_template(routes: Sequence[Any], scope: Scope) -> str | None:
    for route in routes:
        match, child = route.matches(scope)
        if match.value != _FULL:
            continue
        path: str = getattr(route, "path", None) or ""
        # FastAPI keeps the routes of an included router, with its prefix, apart from those of a mounted application.
        inner = route.effective_candidates() if hasattr(route, "effective_candidates") else getattr(route, "routes", None)
        if not inner:
            return path
        below = _find_template(inner, {**scope, **child})
        return None if below is None else path + below
    return None
