"""One connection to Redis, as its URL says: opened, authenticated, and read without a copy too many.

RESP is spoken through hiredis directly; everything that is not a decision uses redis-py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url


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
        reply = await asyncio.wait_for(waiter, 1.0)
        if isinstance(reply, hiredis.ReplyError):
            raise ConnectionError(f"{command[0]}: {reply}")
        return reply


async def connect(url: str, receive: Callable[[Any], None]) -> Connection:
    """Open a connection as the URL says: redis://, rediss:// or unix://, with name, password and database.

    Args:
        url: As redis-py reads it.
        receive: Called on the loop with every reply after the handshake, in order; errors are ``hiredis.ReplyError``.

    Raises:
        OSError: Nobody listens there, or the server refuses.
        hiredis.HiredisError: It does not speak RESP.
    """
    options = parse_url(url)
    loop = asyncio.get_running_loop()

    def build() -> Connection:
        return Connection(receive)

    if "path" in options:
        _, connection = await loop.create_unix_connection(build, options["path"])
    else:
        is_tls = options.get("connection_class") is SSLConnection
        open_connection = loop.create_connection(
            build, options.get("host", "localhost"), options.get("port", 6379), ssl=True if is_tls else None
        )
        _, connection = await asyncio.wait_for(open_connection, 1.0)
    try:
        if options.get("password"):
            name = [options["username"]] if options.get("username") else []
            await connection.ask("AUTH", *name, options["password"])
        if options.get("db"):
            await connection.ask("SELECT", str(options["db"]))
        await connection.ask("CLIENT", "SETNAME", "ratchet-enforcer")
    except BaseException:
        connection.transport.abort()
        raise
    return connection


def pack_command(*command: str | int) -> bytes:
    """Write one command as Redis reads it."""
    return cast("bytes", hiredis.pack_command(command))  # type: ignore[arg-type] # its stub allows one argument only
