"""The detached supervisor behind ``python -m devstack up``: it runs one stack until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback

from devstack.errors import DevstackError
from devstack.jars import Progress
from devstack.process import ServiceState
from devstack.stack import Stack, StackSpec
from devstack.state import ProcessId, StackState, StateFolder, end_processes


def serve(folder: StateFolder, spec: StackSpec) -> bool:
    """Run a stack until SIGTERM, writing each change to the folder's state; standard output is its log.

    Returns:
        False when the stack could not start (the state says why). True when it ended on request, and at once when the
        folder has a living supervisor already.
    """
    with folder.owned() as is_owner:
        if not is_owner:
            return True
        if (before := folder.read()) is not None:
            end_processes(before.processes)
            folder.forget()
        return asyncio.run(_Daemon(folder, spec).run())


class _Daemon:
    def __init__(self, folder: StateFolder, spec: StackSpec) -> None:
        me = ProcessId.of(os.getpid())
        assert me is not None  # noqa: S101 this process runs
        self._folder = folder
        self._state = StackState(supervisor=me, spec=spec)
        self._processes: dict[str, ProcessId] = {}
        self._stack = Stack(spec, folder=folder.path, report=self._report, on_change=self._note)

    async def run(self) -> bool:
        self._loop = asyncio.get_running_loop()
        started_at = time.monotonic()
        self._write()
        work = asyncio.current_task()
        assert work is not None  # noqa: S101 this is a coroutine
        for asked in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(asked, work.cancel)
        try:
            async with self._stack:
                self._write(phase="ready", doing="", ready_after_s=time.monotonic() - started_at)
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self._folder.forget()
        except DevstackError as error:
            print(error)  # noqa: T201 this process's output is its log
            self._write(phase="failed", error=str(error))
            return False
        except Exception as error:  # noqa: BLE001 the edge of this process
            traceback.print_exc()
            self._write(phase="failed", error=f"{type(error).__name__}: {error}")
            return False
        return True

    def _report(self, progress: Progress) -> None:
        """Take progress from any thread."""
        self._loop.call_soon_threadsafe(self._write_progress, progress)

    def _write_progress(self, progress: Progress) -> None:
        self._write(doing=progress.text, done_bytes=progress.done_bytes, total_bytes=progress.total_bytes)

    def _note(self, service: ServiceState) -> None:
        self._processes.pop(service.name, None)
        if service.pid is not None and (process := ProcessId.of(service.pid)) is not None:
            self._processes[service.name] = process
        self._write()

    def _write(self, **changes: object) -> None:
        now = {
            "addresses": self._stack.addresses,
            "services": self._stack.states(),
            "processes": tuple(self._processes.values()),
        }
        self._state = self._state.model_copy(update=now | changes)
        # A full disk must not end a stack that runs; status then tells an older truth.
        with contextlib.suppress(OSError):
            self._folder.write(self._state)
