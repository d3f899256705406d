"""Access on the grpcio server: who calls is found before a servicer runs, and known to it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog

from config.document import DocumentError, read_document
from enforcer.calls.access import (
    ANYBODY,
    Access,
    AccessDocument,
    Caller,
    Callers,
    PermissionDenied,
    Role,
    Unauthenticated,
    find_role,
)

log = structlog.get_logger(__name__)

_caller: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)

Context = grpc.aio.ServicerContext[Any, Any]


def current_caller() -> Caller:
    """Who makes the call that is being served; ``ANYBODY`` without an access document."""
    return _caller.get()


class Guard(grpc.aio.ServerInterceptor):
    """Admits calls as an ``Access`` says, and answers the others UNAUTHENTICATED or PERMISSION_DENIED.

    A servicer that raises ``PermissionDenied``, since what a message says is not for its caller, is answered so too.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Put the decision before the method; None, gRPC's UNIMPLEMENTED, stays."""
        handler = await continuation(handler_call_details)
        role = find_role(handler_call_details.method)
        if handler is None or role is None:
            return handler
        kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
        guard = self._guard_stream if handler.response_streaming else self._guard_unary
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            guard(getattr(handler, kind), role), handler.request_deserializer, handler.response_serializer
        )

    def _guard_unary(self, serve: Callable[[Any, Context], Awaitable[Any]], role: Role) -> Callable[..., Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            try:
                self._admit(role, context)
                return await serve(request, context)
            except (Unauthenticated, PermissionDenied) as error:
                return await self._refuse(error, context)

        return guarded

    def _guard_stream(self, serve: Callable[[Any, Context], Any], role: Role) -> Callable[..., AsyncIterator[Any]]:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                self._admit(role, context)
                if inspect.iscoroutinefunction(serve):
                    await serve(request, context)
                    return
                async for response in serve(request, context):
                    yield response
            except (Unauthenticated, PermissionDenied) as error:
                await self._refuse(error, context)

        return guarded

    def _admit(self, role: Role, context: Context) -> None:
        authorization = next((value for key, value in context.invocation_metadata() or () if key == "authorization"), None)
        certificates = () if authorization else _list_names(context)
        _caller.set(self._access.admit(role, authorization, certificates))

    async def _refuse(self, error: Unauthenticated | PermissionDenied, context: Context) -> None:
        code = grpc.StatusCode.UNAUTHENTICATED if isinstance(error, Unauthenticated) else grpc.StatusCode.PERMISSION_DENIED
        self._access.refused[code.name] += 1
        await context.abort(code, str(error))


def _list_names(context: Context) -> list[str]:
    """Names in the client certificate; the common name only where it has no other (RFC 6125, section 6.4.4)."""
    properties = context.auth_context()
    names = properties.get("x509_subject_alternative_name") or properties.get("x509_common_name") or ()
    return [name.decode("latin-1") for name in names]


def read_callers(file: Path) -> Callers:
    """Read an access document.

    Raises:
        DocumentError: It is refused; what is in force stays.
    """
    return Callers.compile(read_document(file, AccessDocument))


def reload_callers(access: Access, file: Path) -> None:
    """Put the document that the file holds now in force; a bad one is logged, and the old one stays."""
    try:
        callers = read_callers(file)
    except DocumentError as error:
        access.rejected += 1
        log.error("access_rejected", problems=error.problems, stays=access.callers and access.callers.version)  # noqa: TRY400 its text says it all
        return
    access.replace(callers)
    log.info("access_replaced", version=callers.version)
