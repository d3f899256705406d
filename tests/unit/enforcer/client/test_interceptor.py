"""Interceptors of both kinds of gRPC server, with every kind of method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from enforcer.client import Decision, NoDecision
from enforcer.client.interceptor import AsyncRateLimitInterceptor, Details, RateLimitInterceptor
from enforcer.limits.check import InvalidCheck
from tests.unit.enforcer.client.fake_client import FakeClient, FakeSyncClient, decide_by_user

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def decide(user_id: str) -> Decision:
    if user_id == "":
        raise InvalidCheck("user_id is empty")
    if user_id == "raised":
        raise NoDecision("unavailable")
    return decide_by_user(user_id)


def find_user(details: Details) -> str:
    return str(dict(details.invocation_metadata).get("x-user", ""))


def find_action(details: Details) -> str | None:
    return None if details.method.endswith("/free") else details.method


class Methods(grpc.GenericRpcHandler):
    """One method of each kind, and a free one."""

    def __init__(self, behaviors: dict[str, Any]) -> None:
        self.handlers = {
            f"/x.Y/{name}": getattr(grpc, f"{'unary_unary' if name == 'free' else name}_rpc_method_handler")(behavior)
            for name, behavior in behaviors.items()
        }

    def service(self, handler_call_details: Details) -> Any:
        return self.handlers.get(handler_call_details.method)


def answer(request: bytes, _: Any) -> bytes:
    return request


def answer_many(request: bytes, _: Any) -> Iterator[bytes]:
    yield from (request, request)


def answer_all(requests: Iterator[bytes], _: Any) -> bytes:
    return b"".join(requests)


def answer_each(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
    yield from requests


async def answer_async(request: bytes, _: Any) -> bytes:
    return request


async def answer_many_async(request: bytes, _: Any) -> AsyncIterator[bytes]:
    for _number in range(2):
        yield request


async def answer_all_async(requests: AsyncIterator[bytes], _: Any) -> bytes:
    return b"".join([request async for request in requests])


async def answer_each_async(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


SYNC = dict(zip((*KINDS, "free"), (answer, answer_many, answer_all, answer_each, answer), strict=True))
ASYNC = dict(
    zip((*KINDS, "free"), (answer_async, answer_many_async, answer_all_async, answer_each_async, answer_async), strict=True)
)


def call(channel: grpc.Channel, name: str, user: str, messages: Sequence[bytes] = (b"a", b"b")) -> tuple[Any, Any, Any]:
    """What is answered, or status and detail; and the trailing metadata."""
    kind = "unary_unary" if name in ("free", "missing") else name
    method = getattr(channel, kind)(f"/x.Y/{name}")
    metadata = (("x-user", user),) if user else ()
    request = messages[0] if kind.startswith("unary") else iter(messages)
    try:
        if kind.endswith("stream"):
            stream = method(request, timeout=20, metadata=metadata)
            return list(stream), None, dict(stream.trailing_metadata() or ())
        response, done = method.with_call(request, timeout=20, metadata=metadata)
        return response, None, dict(done.trailing_metadata() or ())
    except grpc.RpcError as error:
        failed = cast("grpc.Call", error)  # grpcio's errors are calls, although their type does not say so
        return failed.code(), failed.details(), dict(failed.trailing_metadata() or ())


EXPECTED = {"unary_unary": b"a", "unary_stream": [b"a", b"a"], "stream_unary": b"ab", "stream_stream": [b"a", b"b"]}


def judge(channel: grpc.Channel, asked: list[Any]) -> None:
    """The same of both kinds of server."""
    for kind in KINDS:
        assert call(channel, kind, "alice")[0] == EXPECTED[kind]
        assert asked[-1] == ("alice", f"/x.Y/{kind}", 1, {})
        code, detail, trailers = call(channel, kind, "denied")
        assert (code, trailers["grpc-retry-pushback-ms"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "1500")
        assert detail.startswith("Limit per_user is used up.")
        assert trailers["retry-after"] == "2"
        code, detail, trailers = call(channel, kind, "banned")
        assert (code, trailers["grpc-retry-pushback-ms"]) == (grpc.StatusCode.PERMISSION_DENIED, "-1")
        assert detail.startswith("Banned by rule brute_force until")
    assert call(channel, "unary_unary", "open")[0] == b"a"
    assert call(channel, "unary_unary", "closed")[:2] == (
        grpc.StatusCode.UNAVAILABLE,
        "There is no decision about this request (unavailable).",
    )
    assert call(channel, "unary_unary", "raised")[:2] == (grpc.StatusCode.UNAVAILABLE, "there is no decision about this call")
    assert call(channel, "unary_unary", "")[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "user_id is empty")
    before = len(asked)
    assert call(channel, "free", "denied")[0] == b"a"
    assert len(asked) == before
    assert call(channel, "missing", "alice")[0] is grpc.StatusCode.UNIMPLEMENTED
    assert call(channel, "stream_unary", "denied", ())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_calls_of_a_server_with_threads_are_guarded() -> None:
    client = FakeSyncClient(decide)
    interceptor = RateLimitInterceptor(client, user=find_user, action=find_action)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[interceptor])
    server.add_generic_rpc_handlers([Methods(SYNC)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            judge(channel, client.asked)
    finally:
        server.stop(0).wait()
        client.close()


async def test_calls_of_an_asyncio_server_are_guarded() -> None:
    import asyncio

    client = FakeClient(decide)
    server = grpc.aio.server(interceptors=[AsyncRateLimitInterceptor(client, user=find_user, action=find_action)])
    server.add_generic_rpc_handlers([Methods(ASYNC)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def call_all() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            judge(channel, client.asked)

    try:
        await asyncio.to_thread(call_all)
    finally:
        await server.stop(0)


def test_a_method_is_an_action_by_its_name_unless_told_otherwise() -> None:
    from enforcer.client.interceptor import name_method

    class Called(grpc.HandlerCallDetails):
        method = "/x.Y/Z"
        invocation_metadata = ()

    assert name_method(Called()) == "/x.Y/Z"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_method_is_rebuilt_as_it_was(kind: str) -> None:
    client = FakeSyncClient(decide)
    handlers = Methods(SYNC).handlers
    interceptor = RateLimitInterceptor(client, user=find_user)

    class Called(grpc.HandlerCallDetails):
        method = f"/x.Y/{kind}"
        invocation_metadata = ()

    rebuilt = interceptor.intercept_service(lambda details: handlers[details.method], Called())
    assert [getattr(rebuilt, each) is not None for each in KINDS] == [each == kind for each in KINDS]
    client.close()
