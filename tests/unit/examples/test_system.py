import asyncio

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from devstack.errors import DevstackError
from examples.system import System, SystemSpec, answers_http, serves_grpc


@pytest.mark.parametrize(
    ("status", "is_ready"),
    [(health_pb2.HealthCheckResponse.SERVING, True), (health_pb2.HealthCheckResponse.NOT_SERVING, False)],
)
async def test_grpc_server_is_ready_when_it_says_so(status: int, is_ready: bool) -> None:
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await servicer.set("", status)
    await server.start()
    assert await serves_grpc(f"127.0.0.1:{port}") is is_ready
    await server.stop(0)


async def test_absent_grpc_server_is_not_ready(unused_tcp_port: int) -> None:
    assert not await serves_grpc(f"127.0.0.1:{unused_tcp_port}")


@pytest.mark.parametrize(("status", "is_ready"), [("200 OK", True), ("503 Service Unavailable", False)])
async def test_http_server_is_ready_when_it_answers_200(status: str, is_ready: bool) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readline()).startswith(b"GET /readyz ")
        writer.write(f"HTTP/1.0 {status}\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        assert await answers_http(server.sockets[0].getsockname()[1], "/readyz") is is_ready


def test_addresses_are_not_told_before_they_are_chosen() -> None:
    with pytest.raises(DevstackError):
        _ = System(SystemSpec()).addresses
