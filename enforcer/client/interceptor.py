"""Interceptors for gRPC servers: a decision before each call of a service.

DENY becomes RESOURCE_EXHAUSTED with ``grpc-retry-pushback-ms``, which gRPC's own retries obey (gRFC A6); BAN becomes
PERMISSION_DENIED; no decision, where ``without_enforcer`` denies, UNAVAILABLE. The rate limit headers of HTTP stand in the
trailing metadata.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio

from enforcer.client.aio import AsyncClient
from enforcer.client.decision import Decision
from enforcer.client.errors import NoDecision, NotPermitted
from enforcer.client.sync import Client
from enforcer.limits.check import InvalidCheck

Details: TypeAlias = grpc.HandlerCallDetails
FindText: TypeAlias = Callable[[Details], str]
FindAction: TypeAlias = Callable[[Details], str | None]
FindAttributes: TypeAlias = Callable[[Details], Mapping[str, str]]
Trailers: TypeAlias = tuple[tuple[str, str], ...]

_DO_NOT_RETRY_MS = -1


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call is refused."""

    code: grpc.StatusCode
    detail: str
    trailers: Trailers = ()


def name_method(details: Details) -> str:
    """Name a call's action by its method, ``/package.Service/Method``."""
    return details.method


def no_attributes(_: Details) -> Mapping[str, str]:
    """Tell nothing further."""
    return {}


def find_refusal(decision: Decision) -> Refusal | None:
    """Turn a decision into a status; None: serve the call."""
    if decision.is_allowed:
        return None
    detail = str((decision.problem or {}).get("detail", "refused"))
    if decision.failure:
        return Refusal(grpc.StatusCode.UNAVAILABLE, detail)
    told = tuple((name.lower(), value) for name, value in decision.headers.items() if name != "Cache-Control")
    if decision.outcome == "ban":
        return Refusal(grpc.StatusCode.PERMISSION_DENIED, detail, (*told, ("grpc-retry-pushback-ms", str(_DO_NOT_RETRY_MS))))
    pushback = ("grpc-retry-pushback-ms", str(decision.retry_after_ms))
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, detail, (*told, pushback))


def explain_failure(error: InvalidCheck | NotPermitted | NoDecision) -> Refusal:
    """Turn what a client raises into a status: a call never passes because of it."""
    if isinstance(error, InvalidCheck):
        return Refusal(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    return Refusal(grpc.StatusCode.UNAVAILABLE, "there is no decision about this call")


class RateLimitInterceptor(grpc.ServerInterceptor):
    """For ``grpc.server``. The decision is asked for on the thread that serves the call, so that others are not held up."""

    def __init__(
        self, client: Client, *, user: FindText, action: FindAction = name_method, attributes: FindAttributes = no_attributes
    ) -> None:
        """Prepare.

        Args:
            client: Asks; stays the caller's to close.
            user: Whom a call is counted for, from its metadata.
            action: Of a call; None serves it unasked. By default its method.
            attributes: Further facts, such as ``ip``, from the metadata that a proxy wrote.
        """
        self._client, self._user, self._action, self._attributes = client, user, action, attributes

    def intercept_service(self, continuation: Callable[[Details], Any], handler_call_details: Details) -> Any:
        """Wrap the call's handler."""
        handler = continuation(handler_call_details)
        action = self._action(handler_call_details)
        if handler is None or action is None:
            return handler

        def guard(behavior: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
            def guarded(request: Any, context: grpc.ServicerContext) -> Any:
                refusal = self._ask(handler_call_details, action)
                if refusal is not None:
                    context.set_trailing_metadata(refusal.trailers)
                    context.abort(refusal.code, refusal.detail)
                return behavior(request, context)

            return guarded

        return _rebuild(handler, guard)

    def _ask(self, details: Details, action: str) -> Refusal | None:
        try:
            decision = self._client.check(self._user(details), action, attributes=self._attributes(details))
        except (InvalidCheck, NotPermitted, NoDecision) as error:
            return explain_failure(error)
        return find_refusal(decision)


class AsyncRateLimitInterceptor(grpc.aio.ServerInterceptor):
    """For ``grpc.aio.server``; arguments as for :class:`RateLimitInterceptor`."""

    def __init__(
        self,
        client: AsyncClient,
        *,
        user: FindText,
        action: FindAction = name_method,
        attributes: FindAttributes = no_attributes,
    ) -> None:
        self._client, self._user, self._action, self._attributes = client, user, action, attributes

    async def intercept_service(self, continuation: Callable[[Details], Awaitable[Any]], handler_call_details: Details) -> Any:
        """Hand the call on, or refuse it."""
        action = self._action(handler_call_details)
        if action is None:
            return await continuation(handler_call_details)
        try:
            decision = await self._client.check(
                self._user(handler_call_details), action, attributes=self._attributes(handler_call_details)
            )
        except (InvalidCheck, NotPermitted, NoDecision) as error:
            return _refuse_with(explain_failure(error))
        refusal = find_refusal(decision)
        return await continuation(handler_call_details) if refusal is None else _refuse_with(refusal)


def _refuse_with(refusal: Refusal) -> Any:
    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        context.set_trailing_metadata(refusal.trailers)
        await context.abort(refusal.code, refusal.detail)

    # Of streams on both sides, so that it is not a message that is waited for, whatever the method takes.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _rebuild(handler: Any, guard: Callable[[Any], Any]) -> Any:
    make, behavior = next(
        (make, behavior)
        for make, behavior in (
            (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        )
        if behavior is not None
    )
    return make(guard(behavior), handler.request_deserializer, handler.response_serializer)
