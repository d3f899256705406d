"""Who may call: bearer tokens, checked in one way on both transports."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import grpc
import grpc.aio
from pydantic import BaseModel, ConfigDict, Field

from config.document import Loaded

UNAUTHENTICATED = "a bearer token that this enforcer knows is needed: metadata `authorization: Bearer TOKEN`"
_OPEN_PREFIXES = ("/grpc.health.v1.", "/grpc.reflection.")
"""Balancers and tools ask these without a token; they change nothing."""


class TokenDocument(BaseModel):
    """One caller."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    """Who it is, for people."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the token, in lower-case hex: `printf %s TOKEN | sha256sum`. The token itself stands nowhere."""


class AccessDocument(BaseModel):
    """The whole of the access document."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    version: Literal[1]
    tokens: Annotated[tuple[TokenDocument, ...], Field(min_length=1, max_length=10_000)]


@dataclass(frozen=True, slots=True)
class Access:
    """The tokens that may call; none means that everybody may."""

    hashes: frozenset[bytes] = frozenset()

    @classmethod
    def compile(cls, loaded: Loaded[AccessDocument]) -> Self:
        """Compile a document that was found valid."""
        return cls(frozenset(bytes.fromhex(token.sha256) for token in loaded.model.tokens))

    def admits(self, authorization: str | bytes | None) -> bool:
        """Whether the value of the metadata ``authorization`` lets the caller in."""
        return not self.hashes or _is_known(self.hashes, authorization or "")


@lru_cache(maxsize=4096)
def _is_known(hashes: frozenset[bytes], authorization: str | bytes) -> bool:
    text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
    scheme, _, token = text.partition(" ")
    # Hashes are compared, so how long it takes tells nothing of a token.
    return scheme.lower() == "bearer" and hashlib.sha256(token.encode()).digest() in hashes


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a known token, on the grpcio server."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_refuse)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Hand the call on, or answer UNAUTHENTICATED."""
        if handler_call_details.method.startswith(_OPEN_PREFIXES):
            return await continuation(handler_call_details)
        metadata = dict(handler_call_details.invocation_metadata)
        if self._access.admits(metadata.get("authorization")):
            return await continuation(handler_call_details)
        return self._refusal


async def _refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, UNAUTHENTICATED)
