"""Middleware for any ASGI 3 application. Needs no framework."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

from enforcer.client.aio import AsyncClient
from enforcer.client.guard import LEAST_ERROR, TIMEOUT_STATUS, FindUser, Guard, HttpAnswer, Scope
from enforcer.client.routes import name_route

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class RateLimitMiddleware:
    """Asks for a decision before each HTTP request, answers refusals itself, and reports how the application fared.

    Other connections (WebSocket, lifespan) pass through unasked. The client stays the caller's to close.
    """

    def __init__(
        self,
        app: Application,
        client: AsyncClient,
        *,
        user: FindUser,
        action: Callable[[Scope], str | None] = name_route,
        attributes: Callable[[Scope], Mapping[str, str]] | None = None,
        trusted_proxies: Sequence[str] = (),
        has_older_headers: bool = False,
    ) -> None:
        """Wrap an application.

        Args:
            app: Serves what is allowed.
            client: Asks.
            user: Whom a request is counted for; None counts it for its address. May be asynchronous.
            action: Of a request; None serves it unasked. By default its route (:func:`enforcer.client.routes.name_route`).
            attributes: Further facts about a request; ``ip`` is there already.
            trusted_proxies: Networks, such as ``10.0.0.0/8``, whose X-Forwarded-For is believed. None by default.
            has_older_headers: Send X-RateLimit-Limit, -Remaining and -Reset too.

        Raises:
            ValueError: ``trusted_proxies`` holds what is no network.
        """
        self._app, self._client, self._action = app, client, action
        self._guard = Guard(
            client=client,
            user=user,
            attributes=attributes,
            trusted_proxies=trusted_proxies,
            has_older_headers=has_older_headers,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        action = self._action(scope) if scope["type"] == "http" else None
        if action is None:
            await self._app(scope, receive, send)
            return
        answer = await self._guard.ask(scope, action)
        if answer.body:
            await _send_refusal(answer, send)
        else:
            await self._serve(scope, receive, send, action, answer)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, action: str, answer: HttpAnswer) -> None:
        headers = _encode(answer)
        status = LEAST_ERROR  # of an application that raises before it answers
        started_s = time.monotonic()

        async def send_told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        try:
            await self._app(scope, receive, send_told)
        except Exception:
            status = max(status, LEAST_ERROR)
            raise
        except BaseException:
            status = 0  # cancelled: says nothing of the backend
            raise
        finally:
            if status:
                is_timeout = status == TIMEOUT_STATUS
                latency_s = time.monotonic() - started_s
                self._client.observe(action, latency_s, is_error=status >= LEAST_ERROR, is_timeout=is_timeout)


def _encode(answer: HttpAnswer) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]


async def _send_refusal(answer: HttpAnswer, send: Send) -> None:
    length = (b"content-length", str(len(answer.body)).encode())
    await send({"type": "http.response.start", "status": answer.status, "headers": [*_encode(answer), length]})
    await send({"type": "http.response.body", "body": answer.body})
