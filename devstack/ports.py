"""Ports on the loopback interface: free ones, and connections to those that are not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator

LOOPBACK = "127.0.0.1"
FREE_RANGE = range(20_000, 32_000)
"""Below the ports that Linux (from 32768) and macOS (from 49152) give to outgoing connections: a part that is killed
must find its port free when it is started again."""


def is_free(port: int) -> bool:
    """Tell whether a server could listen on ``127.0.0.1:port`` now; ports in TIME_WAIT count as free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError:
            return False
    return True


class PortChooser:
    """Gives out ports, none twice. Free now is no promise: another process may take one before its server starts."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def choose(self, preferred: int | None = None) -> int:
        """Return ``preferred`` if it is free and not yet given, else a random free port of ``FREE_RANGE``."""
        if preferred is not None and preferred not in self._given and is_free(preferred):
            self._given.add(preferred)
            return preferred
        while True:
            port = random.choice(FREE_RANGE)  # noqa: S311 spreads stacks over the range, hides nothing
            if port not in self._given and is_free(port):
                self._given.add(port)
                return port


@contextlib.asynccontextmanager
async def connect(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to ``127.0.0.1:port`` while the block runs; an ``OSError`` when nobody listens."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
