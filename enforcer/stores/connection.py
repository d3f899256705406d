"""One connection to Redis, as its URL says: opened, authenticated, and read without a copy too many.

RESP is spoken through hiredis directly; everything that is not a decision uses redis-py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.exceptions import RedisError

from lua.address import Address

_ANSWER_WITHIN_S = 1.0


class Connection(asyncio.Protocol):
    """Bytes to replies, on the event loop that opened it. What was asked gets its reply; others go to ``receive``."""

    lost: asyncio.Future[None]
    """Done when the connection is gone, however it went."""
    transport: asyncio.Transport
    """Write whole commands to it, ``abort`` it to be rid of it."""

    def __init__(self, receive: Callable[[Any], None]) -> None:
        self.lost = asyncio.get_running_loop().create_future()
        self._reader = hiredis.Reader()
        self._receive = receive
        self._handshake: deque[asyncio.Future[Any]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Hand on every whole reply."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if self._handshake:
                self._handshake.popleft().set_result(reply)
            else:
                self._receive(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio's signature
        """Fail what was asked and tell ``lost``."""
        if not self.lost.done():
            self.lost.set_result(None)
        for waiter in self._handshake:
            if not waiter.done():  # who asked may have given up
                waiter.set_exception(ConnectionError("closed during the handshake"))
        self._handshake.clear()

    async def ask(self, *command: str) -> Any:
        """Send one command of the handshake and wait for its reply, at most a second.

        Raises:
            OSError: No reply, or an error. Abort the connection: its next reply may be this one.
        """
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._handshake.append(waiter)
        self.transport.write(pack_command(*command))
        async with asyncio.timeout(_ANSWER_WITHIN_S):  # Python 3.11's wait_for swallows a cancellation that meets the reply
            reply = await waiter
        if isinstance(reply, hiredis.ReplyError):
            raise ConnectionError(f"{command[0]}: {reply}")
        return reply


async def connect(address: Address, receive: Callable[[Any], None]) -> Connection:
    """Open a connection and log in. With sentinels, to the master that they name now and that takes itself for it.

    Args:
        address: Where Redis is.
        receive: Called on the loop with every reply after the handshake, in order; errors are ``hiredis.ReplyError``.

    Raises:
        OSError: Nobody listens there, the server refuses, or no sentinel knows a master. Ask again after a pause.
        hiredis.HiredisError: It does not speak RESP.
    """
    options = address.options
    loop = asyncio.get_running_loop()

    def build() -> Connection:
        return Connection(receive)

    if "path" in options:
        _, connection = await loop.create_unix_connection(build, options["path"])
    else:
        host, port = await _find_master(address) if address.sentinels else (options.get("host"), options.get("port"))
        opening = loop.create_connection(build, host or "localhost", port or 6379, ssl=address.load_tls())
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            _, connection = await opening
    try:
        if options.get("password"):
            name = [options["username"]] if options.get("username") else []
            await connection.ask("AUTH", *name, options["password"])
        if options.get("db"):
            await connection.ask("SELECT", str(options["db"]))
        await connection.ask("CLIENT", "SETNAME", "ratchet-enforcer")
        if address.sentinels:
            await _confirm_master(connection)
    except BaseException:
        connection.transport.abort()
        raise
    return connection


async def _confirm_master(connection: Connection) -> None:
    """Sentinels name a master that is demoted until they have agreed: step 3 of Redis's "Guidelines for Sentinel clients"."""
    role = (await connection.ask("ROLE"))[0]
    if role != b"master":
        raise ConnectionError(f"the server that the sentinels name is {role.decode()}, not master")


async def _find_master(address: Address) -> tuple[str, int]:
    async with address.watch_over() as sentinels:
        try:
            host, port = await sentinels.discover_master(address.service)
        except RedisError as error:
            raise ConnectionError(str(error)) from error
    return host, port


def pack_command(*command: str | int) -> bytes:
    """Write one command as Redis reads it."""
    return cast("bytes", hiredis.pack_command(command))  # type: ignore[arg-type] # its stub allows one argument only
