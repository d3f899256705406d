"""A caller who sends too much harms nobody else, on either transport."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest

from enforcer.front import LARGEST_METADATA_BYTES, LARGEST_REQUEST_BYTES, MOST_STREAMS
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, run_enforcer

CHECK = "/ratchet.v1.Enforcer/Check"


@pytest.fixture(scope="module", params=["native", "grpcio"])
def enforcer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    folder = tmp_path_factory.mktemp("bounds")
    with run_enforcer(f"redis://{NOWHERE}/0", NOWHERE, folder, "--transport", request.param) as one:
        yield one


def send(enforcer: EnforcerProcess, payload: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.StatusCode:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(enforcer.address, options) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK)
        try:
            call(payload, timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_message_that_is_too_large_is_refused(enforcer: EnforcerProcess) -> None:
    assert send(enforcer, bytes(LARGEST_REQUEST_BYTES + 1)) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert enforcer.check("alice").degraded


def test_message_of_no_sense_is_an_error(enforcer: EnforcerProcess) -> None:
    assert send(enforcer, b"\xff" * 1000) in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    assert enforcer.check("alice").degraded


def test_metadata_that_is_too_large_is_refused(enforcer: EnforcerProcess) -> None:
    request = enforcer_pb2.CheckRequest(user_id="alice", action="other").SerializeToString()
    assert send(enforcer, request, (("x-note", "y" * 1000),)) == grpc.StatusCode.OK
    assert send(enforcer, request, (("x-note", "y" * LARGEST_METADATA_BYTES),)) != grpc.StatusCode.OK
    assert enforcer.check("alice").degraded


def read_settings(address: str) -> dict[int, int]:
    """The server's first SETTINGS frame (RFC 9113, section 6.5)."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection, connection.makefile("rb") as stream:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        head = stream.read(9)
        assert head[3] == 4
        body = stream.read(int.from_bytes(head[:3], "big"))
    return {int.from_bytes(body[i : i + 2], "big"): int.from_bytes(body[i + 2 : i + 6], "big") for i in range(0, len(body), 6)}


def test_connection_is_told_how_many_calls_it_may_have_open(enforcer: EnforcerProcess) -> None:
    max_concurrent_streams, max_header_list_size = 3, 6
    told = read_settings(enforcer.address)
    assert told[max_concurrent_streams] == MOST_STREAMS
    assert told[max_header_list_size] <= LARGEST_METADATA_BYTES


def test_connection_that_speaks_something_else_is_closed(enforcer: EnforcerProcess) -> None:
    host, _, port = enforcer.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        with suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
    assert enforcer.check("alice").degraded
