"""The proxy's real configuration in front of two real gRPC servers that stand in for enforcers."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest_asyncio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from devstack import envoy_proxy
from devstack.ports import LOOPBACK, PortChooser
from devstack.stack import Stack, StackSpec

DEADLINE_S = 15.0
CONNECTIONS = 1
"""Of Envoy to an enforcer."""
METHOD = "/ratchet.v1.Enforcer/Check"


class Enforcers:
    """Two servers, a channel to the proxy, and how many calls reached which server."""

    channel: grpc.aio.Channel

    def __init__(self) -> None:
        chooser = PortChooser()
        self.ports = chooser.choose(), chooser.choose()
        self.servers: dict[int, grpc.aio.Server] = {}
        self.calls: Counter[int] = Counter()

    async def start(self, port: int) -> None:
        self.servers[port] = server = grpc.aio.server()
        servicer = health.aio.HealthServicer()
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

        async def check(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self.calls[port] += 1
            if request == b"hang":
                await asyncio.sleep(DEADLINE_S)
            if request:
                await context.abort(grpc.StatusCode[request.decode()], "as asked")
            return str(port).encode()

        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(check)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ratchet.v1.Enforcer", {"Check": handler}),))
        server.add_insecure_port(f"{LOOPBACK}:{port}")
        await server.start()

    async def call(self, request: bytes = b"") -> grpc.StatusCode:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(METHOD)
        try:
            await method(request)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def until_all_answer(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        self.calls.clear()
        while len(self.calls) < len(self.servers):
            assert time.monotonic() < deadline, f"only {list(self.calls)} of {self.ports} were reached"
            await self.call()
            await asyncio.sleep(0.01)
        self.calls.clear()


@pytest_asyncio.fixture
async def enforcers() -> AsyncIterator[Enforcers]:
    there = Enforcers()
    for port in there.ports:
        await there.start(port)
    async with Stack(StackSpec(parts=frozenset({"envoy"}), enforcer_ports=there.ports)) as stack:
        # gRPC shares connections between channels to one address unless told otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(stack.addresses.envoy_address, options) as there.channel:
            await there.until_all_answer()
            yield there
        for server in there.servers.values():
            await server.stop(None)


def test_envoy_itself_finds_the_shared_file_valid() -> None:
    command = [str(envoy_proxy.find_server()), "--mode", "validate", "-c", str(envoy_proxy.CONFIG)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


async def test_calls_are_shared_and_a_dead_enforcer_is_left_out(enforcers: Enforcers) -> None:
    assert {await enforcers.call() for _ in range(200)} == {grpc.StatusCode.OK}
    assert min(enforcers.calls[port] for port in enforcers.ports) > 20
    first, second = enforcers.ports
    await enforcers.servers.pop(first).stop(None)
    enforcers.calls.clear()
    answers = [await enforcers.call() for _ in range(200)]
    # A call that is on its way as the connection dies may have arrived, and is not repeated: one for each connection.
    lost = [answer for answer in answers if answer != grpc.StatusCode.OK]
    assert set(lost) <= {grpc.StatusCode.UNAVAILABLE}
    assert len(lost) <= CONNECTIONS
    assert enforcers.calls == {second: 200 - len(lost)}
    await enforcers.start(first)
    await enforcers.until_all_answer()


async def test_a_call_that_reached_an_enforcer_is_never_sent_again(enforcers: Enforcers) -> None:
    assert await enforcers.call(b"UNAVAILABLE") == grpc.StatusCode.UNAVAILABLE
    assert enforcers.calls.total() == 1
    enforcers.calls.clear()
    # What hangs is told apart from what did not arrive, so that a client does not repeat it.
    assert await enforcers.call(b"hang") == grpc.StatusCode.DEADLINE_EXCEEDED
    assert enforcers.calls.total() == 1


async def test_calls_that_provoke_internal_errors_take_no_enforcer_away(enforcers: Enforcers) -> None:
    assert {await enforcers.call(b"INTERNAL") for _ in range(30)} == {grpc.StatusCode.INTERNAL}
    assert set(enforcers.calls) == set(enforcers.ports)
    await enforcers.until_all_answer()


async def test_without_any_enforcer_callers_hear_it_at_once(enforcers: Enforcers) -> None:
    while enforcers.servers:
        await enforcers.servers.popitem()[1].stop(None)
    assert await enforcers.call() == grpc.StatusCode.UNAVAILABLE
