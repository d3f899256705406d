"""What a client asks again, beside a real enforcer: only what no enforcer has begun with."""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from enforcer.client import AsyncClient
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, run_enforcer

PATIENT_S = 30.0
PREFACE_BYTES = 24
HEADERS, SETTINGS, PING, GOAWAY = 1, 4, 6, 7
ACK = 1


@pytest.fixture(scope="module")
def enforcer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    """One without Redis and Kafka: it counts what it is asked all the same."""
    with run_enforcer(f"redis://{NOWHERE}", NOWHERE, tmp_path_factory.mktemp("enforcer")) as one:
        yield one


def write_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes((kind, flags)) + struct.pack("!I", stream) + payload


@asynccontextmanager
async def run_refuser(*, begins: bool) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that takes connections and answers no call.

    It turns away each stream unprocessed, or, where it ``begins``, breaks the connection once it has seen one. Tells its
    address and the streams that it has seen.
    """
    seen: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(PREFACE_BYTES)
            writer.write(write_frame(SETTINGS, 0, 0))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3]))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:]) & 0x7FFF_FFFF
                if kind in (SETTINGS, PING) and not flags & ACK:
                    writer.write(write_frame(kind, ACK, 0, payload if kind == PING else b""))
                elif kind == HEADERS:
                    seen.append(stream)
                    if begins:
                        return
                    # RFC 9113 section 6.8: no stream above number 0 was processed. What a server sends that drains.
                    writer.write(write_frame(GOAWAY, 0, 0, struct.pack("!II", 0, 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", seen


async def test_a_call_that_was_turned_away_unprocessed_is_asked_elsewhere_and_spends_once(enforcer: EnforcerProcess) -> None:
    user, before, decided = f"retried {uuid.uuid4()}", enforcer.read_metric("ratchet_events_offered_total"), 0
    async with (
        run_refuser(begins=False) as (address, seen),
        AsyncClient(
            address, enforcer.address, without_enforcer="allow", timeout_s=PATIENT_S, remembers_denials=False
        ) as client,
        asyncio.timeout(PATIENT_S),
    ):
        # Without health: this server has none of it, and would be left alone at once.
        client._options = tuple(
            (name, str(value).replace("healthCheckConfig", "_") if name == "grpc.service_config" else value)
            for name, value in client._options
        )
        while not decided:  # until both are connected: with the refuser alone there is no elsewhere
            decided += not (await client.check(user, "other")).failure
        seen.clear()
        for _ in range(20):
            assert not (await client.check(user, "other")).failure
            decided += 1
        assert seen
    assert enforcer.read_metric("ratchet_events_offered_total") == before + decided


async def test_a_call_that_a_server_may_have_begun_is_not_asked_again(enforcer: EnforcerProcess) -> None:
    user = f"once {uuid.uuid4()}"
    async with (
        run_refuser(begins=True) as (address, seen),
        AsyncClient(address, without_enforcer="allow", timeout_s=PATIENT_S, is_proxied=True) as client,
    ):
        decision = await client.check(user, "other")
    assert (decision.outcome, decision.failure) == ("allow", "unavailable")
    assert len(seen) == 1
