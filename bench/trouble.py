"""A TCP proxy that makes trouble: what stands behind it becomes slow, or breaks off in the middle of an answer."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from devstack.ports import LOOPBACK

_CHUNK_BYTES = 65_536


class TroubleProxy:
    """Passes bytes on, both ways, in order; an asynchronous context manager that leaves no connection behind."""

    def __init__(self, port: int, behind: int) -> None:
        """Prepare; entering listens.

        Args:
            port: Where to listen, on loopback.
            behind: Port of the server that is troubled.
        """
        self._port = port
        self._behind = behind
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        """How much later than it came each answer goes on."""
        self.cuts = False
        """Whether an answer is broken off after half of its bytes, and the connection with it."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None  # noqa: S101 it was entered
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 a server's callback is a task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            behind_reader, behind_writer = await asyncio.open_connection(LOOPBACK, self._behind)
            asking = asyncio.ensure_future(_pass_on(reader, behind_writer))
            try:
                await self._answer(behind_reader, writer)
            finally:
                asking.cancel()
                behind_writer.close()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            loop = asyncio.get_running_loop()
            while True:
                due_s, data = await late.get()
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                writer.write(data)
                await writer.drain()

        sending = asyncio.ensure_future(send())
        try:
            while data := await reader.read(_CHUNK_BYTES):
                if self.cuts:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    return
                late.put_nowait((asyncio.get_running_loop().time() + self.delay_s, data))
        finally:
            sending.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
