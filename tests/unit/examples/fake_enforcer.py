"""An enforcer in this process that answers what a test tells it to: for what the real one cannot be made to say at will."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc

Decide = Callable[[enforcer_pb2.CheckRequest], enforcer_pb2.CheckResponse | grpc.StatusCode]


@asynccontextmanager
async def run_fake_enforcer(decide: Decide) -> AsyncIterator[str]:
    class Fake(enforcer_pb2_grpc.EnforcerServicer):  # the other RPCs answer UNIMPLEMENTED
        async def Check(  # noqa: N802 the name in the .proto file
            self,
            request: enforcer_pb2.CheckRequest,
            context: grpc.aio.ServicerContext[enforcer_pb2.CheckRequest, enforcer_pb2.CheckResponse],
        ) -> enforcer_pb2.CheckResponse:
            answer = decide(request)
            if isinstance(answer, grpc.StatusCode):
                await context.abort(answer, "as told")
            return answer

    server = grpc.aio.server()
    enforcer_pb2_grpc.add_EnforcerServicer_to_server(Fake(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
