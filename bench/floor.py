"""A server that decides nothing: what a transport costs by itself. ``python -m bench.floor native --port 50060``.

``native`` and ``grpcio`` are asyncio servers on uvloop as the enforcer runs them; ``front`` is the queue of calls under
``native``, with nothing between it and the answer. Each reads no request and answers every ShouldRateLimit with the same OK.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated, Literal

import grpc
import pygrpc_native
import pygrpc_native.aio
import typer
import uvloop

from ratchet.envoy import rls_pb2, rls_pb2_grpc

FloorTransport = Literal["native", "front", "grpcio"]

_METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
_EVENTS_PER_BATCH = 512
_OK = rls_pb2.RateLimitResponse(
    overall_code=rls_pb2.RateLimitResponse.OK,
    statuses=[rls_pb2.RateLimitResponse.DescriptorStatus(code=rls_pb2.RateLimitResponse.OK, limit_remaining=999)],
)


class _Empty(rls_pb2_grpc.RateLimitServiceServicer):
    async def ShouldRateLimit(  # noqa: N802 Envoy's name
        self,
        request: rls_pb2.RateLimitRequest,  # noqa: ARG002 gRPC's signature
        context: grpc.aio.ServicerContext[rls_pb2.RateLimitRequest, rls_pb2.RateLimitResponse],  # noqa: ARG002 gRPC's signature
    ) -> rls_pb2.RateLimitResponse:
        return _OK


async def _serve(transport: Literal["native", "grpcio"], address: str) -> None:
    server = pygrpc_native.aio.server() if transport == "native" else grpc.aio.server()
    rls_pb2_grpc.add_RateLimitServiceServicer_to_server(_Empty(), server)
    server.add_insecure_port(address)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(None)


def _serve_front(address: str) -> None:
    front = pygrpc_native.NativeGrpcFront(address, [(_METHOD, False)])
    front.start()
    answer = _OK.SerializeToString()
    while (events := front.recv_batch(_EVENTS_PER_BATCH)) is not None:
        for kind, call_id, _method_id, _payload, _client_key in events:
            if kind == pygrpc_native.EVENT_CALL:
                front.respond(call_id, answer)


def main(
    transport: Annotated[FloorTransport, typer.Argument(help="Which server.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on the loopback interface.")],
) -> None:
    """Answer every call with the same OK until SIGTERM."""
    address = f"127.0.0.1:{port}"
    if transport == "front":
        _serve_front(address)
    else:
        uvloop.run(_serve(transport, address))


if __name__ == "__main__":
    typer.run(main)
