"""A decorator for endpoints of FastAPI and Starlette. Needs Starlette."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Self, get_type_hints

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from enforcer.client.aio import AsyncClient
from enforcer.client.guard import LEAST_ERROR, TIMEOUT_STATUS, FindUser, Guard, Scope

Endpoint = Callable[..., Any]

_REQUEST, _RESPONSE = "ratchet_request", "ratchet_response"
"""Parameters that FastAPI is asked to fill in where the endpoint has none of its own."""


def limited(
    client: AsyncClient,
    *,
    action: str,
    user: FindUser,
    cost: int = 1,
    attributes: Callable[[Scope], Mapping[str, str]] | None = None,
    trusted_proxies: Sequence[str] = (),
    has_older_headers: bool = False,
) -> Callable[[Endpoint], Callable[..., Awaitable[Any]]]:
    """Ask for a decision before an endpoint runs, answer refusals instead of it, and report how it fared.

    Stands below the route's decorator. The endpoint may be a coroutine function or a plain one, and need not take the request.
    Headers stand on what it returns, not on exceptions that it raises.

    Args:
        client: Asks; stays the caller's to close.
        action: Of the check; selects the policy.
        user: Whom a request is counted for, found in its scope; None counts it for its address. May be asynchronous.
        cost: Tokens, for endpoints that are dearer than others.
        attributes: Further facts about a request; ``ip`` is there already.
        trusted_proxies: Networks, such as ``10.0.0.0/8``, whose X-Forwarded-For is believed. None by default.
        has_older_headers: Send X-RateLimit-Limit, -Remaining and -Reset too.

    Raises:
        ValueError: ``trusted_proxies`` holds what is no network.
    """
    guard = Guard(
        client=client,
        user=user,
        cost=cost,
        attributes=attributes,
        trusted_proxies=trusted_proxies,
        has_older_headers=has_older_headers,
    )

    def decorate(endpoint: Endpoint) -> Callable[..., Awaitable[Any]]:
        is_coroutine = inspect.iscoroutinefunction(endpoint)
        parameters = _Parameters.of(endpoint)

        @wraps(endpoint)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            answer = await guard.ask(parameters.find_request(args, kwargs).scope, action)
            if answer.body:
                return Response(answer.body, answer.status, dict(answer.headers))
            started_s, status = time.monotonic(), LEAST_ERROR
            try:
                call = partial(endpoint, *args, **parameters.strip(kwargs))
                result = await (call() if is_coroutine else run_in_threadpool(call))
                status = result.status_code if isinstance(result, Response) else 200
            except HTTPException as error:
                status = error.status_code
                raise
            except Exception:
                raise
            except BaseException:
                status = 0  # cancelled: says nothing of the backend
                raise
            finally:
                if status:
                    latency_s = time.monotonic() - started_s
                    client.observe(action, latency_s, is_error=status >= LEAST_ERROR, is_timeout=status == TIMEOUT_STATUS)
            told = result if isinstance(result, Response) else kwargs.get(parameters.response)
            if told is not None:
                told.headers.update(answer.headers)
            return result

        guarded.__signature__ = parameters.signature  # type: ignore[attr-defined]
        return guarded

    return decorate


@dataclass(frozen=True, slots=True)
class _Parameters:
    """By which parameters a call brings its request and FastAPI's response, and what FastAPI is told to bring.

    FastAPI fills in one request and one response by their types, so those of the endpoint are used where it has them.
    """

    request: str
    response: str
    added: frozenset[str]
    signature: inspect.Signature

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self:
        signature = inspect.signature(endpoint)
        hints = get_type_hints(endpoint, include_extras=True)
        parameters = [
            parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
            for parameter in signature.parameters.values()
        ]
        added = []
        names = []
        for name, kind in ((_REQUEST, Request), (_RESPONSE, Response)):
            own = next((each.name for each in parameters if _is_a(each.annotation, kind)), None)
            names.append(own or name)
            if own is None:
                added.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind))
        varied = [each for each in parameters if each.kind is inspect.Parameter.VAR_KEYWORD]
        signature = signature.replace(
            parameters=[*(each for each in parameters if each not in varied), *added, *varied],
            return_annotation=hints.get("return", signature.return_annotation),
        )
        return cls(names[0], names[1], frozenset(each.name for each in added), signature)

    def find_request(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
        """Starlette hands the request over first, FastAPI by name."""
        request = kwargs[self.request] if self.request in kwargs else args[0]
        assert isinstance(request, Request)  # noqa: S101 what these frameworks call endpoints with
        return request

    def strip(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Leave what the endpoint itself takes."""
        return {name: value for name, value in kwargs.items() if name not in self.added}


def _is_a(annotation: object, kind: type) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, kind)
