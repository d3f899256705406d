"""Several worker processes on one port: supervised, and drained one after the other.

Each worker is an enforcer of its own, with its own event loop, connections and ``source``; the kernel spreads connections over
them (SO_REUSEPORT). A client therefore needs several connections to reach all of them: at least four for each worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

_BACKOFF_S = (0.1, 0.5, 2.0)
_STABLE_S = 30.0
_FINAL_CODES = (2, 3)
"""Bad configuration, port taken: starting again would not help."""

log = structlog.get_logger(__name__)


def hold_port(host: str, port: int) -> socket.socket:
    """Bind the address for the workers to share; the socket never listens.

    Raises:
        OSError: Another program holds it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as alone:  # without SO_REUSEPORT: fails where anybody listens
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind((host, port))
        port = alone.getsockname()[1]
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held


@dataclass(slots=True)
class _Worker:
    index: int
    process: asyncio.subprocess.Process
    started_s: float
    failures: int = 0


@dataclass(slots=True)
class Workers:
    """Runs ``count`` workers, each as ``command + --worker INDEX``.

    They end when this process does, however it ends: each watches a pipe that only this process holds open.
    """

    command: Sequence[str]
    count: int
    exit_code: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _replace: asyncio.Event = field(default_factory=asyncio.Event)
    _workers: dict[int, _Worker] = field(default_factory=dict)

    async def run(self) -> int:
        """Run until SIGTERM or Ctrl-C; SIGHUP replaces the workers one after the other. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._replace.set)
        lifeline, held = os.pipe()
        try:
            tasks = [loop.create_task(self._keep(index, lifeline)) for index in range(self.count)]
            replacing = loop.create_task(self._replace_all())
            await self._stop.wait()
            replacing.cancel()
            for index in range(self.count):
                await self._end(index)
            await asyncio.gather(*tasks)
        finally:
            os.close(held)
            os.close(lifeline)
        return self.exit_code

    async def _keep(self, index: int, lifeline: int) -> None:
        failures = 0
        while not self._stop.is_set():
            process = await asyncio.create_subprocess_exec(
                *self.command, "--worker", str(index), stdin=lifeline, start_new_session=True
            )
            worker = self._workers[index] = _Worker(index, process, time.monotonic())
            code = await process.wait()
            if self._stop.is_set() or code == 0:
                continue
            if code in _FINAL_CODES:
                self.exit_code = code
                self._stop.set()
                return
            failures = 0 if time.monotonic() - worker.started_s > _STABLE_S else failures + 1
            wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
            log.error("worker_died", worker=index, code=code, starts_again_in_s=wait_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait_s)

    async def _end(self, index: int) -> None:
        worker = self._workers.get(index)
        if worker is not None and worker.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                worker.process.terminate()
            await worker.process.wait()

    async def _replace_all(self) -> None:
        while True:
            await self._replace.wait()
            self._replace.clear()
            log.info("workers_replaced_one_by_one", workers=self.count)
            for index in range(self.count):
                await self._end(index)  # _keep starts the next one
                await asyncio.sleep(1.0)


def watch_parent(stop: asyncio.Event) -> None:
    """In a worker: stop when the supervisor is gone."""
    loop, lifeline = asyncio.get_running_loop(), sys.stdin.fileno()

    def end() -> None:
        loop.remove_reader(lifeline)
        stop.set()

    loop.add_reader(lifeline, end)
