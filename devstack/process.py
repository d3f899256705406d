"""Processes that depend on each other: started in order, watched, restarted where asked, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

import psutil

from devstack import guardian
from devstack.errors import DevstackError, ServiceFailedError

Status = Literal["waiting", "starting", "ready", "exited", "stopped"]

POLL_S = 0.02
CHECK_WITHIN_S = 2.0
FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 5.0
STABLE_AFTER_S = 10.0
"""A service that lived this long is restarted with the first backoff again."""
LOG_TAIL_LINES = 15
GUARDIAN_SCRIPT = (sys.executable, "-I", "-S", guardian.__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A process to run: what it is, when it counts as ready, and how it ends.

    Attributes:
        name: Names the service in calls, states and ``<name>.log``; unique in its supervisor.
        argv: Program and arguments; nothing passes through a shell.
        is_ready: Tells whether the service can be used now. Asked every 20 ms while it starts; may raise ``OSError`` or
            take over 2 s, which count as no.
        env: Added to this process's own environment.
        cwd: Folder to run in; None for this process's own.
        port: Loopback port that the process or a child has to listen on to be ready; so that nobody else's server, which
            had the port already, is taken for it.
        after: Names of services that have to be ready before this one starts, and end after it.
        stop_signal: Asks the process (not its children) to end.
        stop_grace_s: Seconds it may take to; then it is killed with its children.
        ready_within_s: Seconds from its start in which it has to be ready.
        restart: Start it again when it ends by itself after it was once ready.
    """

    name: str
    argv: Sequence[str]
    is_ready: Callable[[], Awaitable[bool]]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    port: int | None = None
    after: Sequence[str] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    ready_within_s: float = 60.0
    restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """What a supervisor knows of one service at one moment.

    Attributes:
        name: The service's name.
        status: ``waiting`` for others, ``starting``, ``ready``, ``exited`` by itself or killed, ``stopped`` on request.
        log: File that its standard output and error are appended to.
        pid: Process id while it runs; also the id of its process group.
        exit_code: How the last process ended; negative for a signal.
        restarts: Times it was started again because it ended by itself.
        ready_after_s: Seconds from its latest start until it was ready.
    """

    name: str
    status: Status
    log: Path
    pid: int | None = None
    exit_code: int | None = None
    restarts: int = 0
    ready_after_s: float | None = None


class _Run:
    """The changing side of one service."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.state = ServiceState(name=service.name, status="waiting", log=log)
        self.process: asyncio.subprocess.Process | None = None
        self.ended: asyncio.Task[int] | None = None
        self.started_at = 0.0
        self.backoff_s = FIRST_BACKOFF_S


class Supervisor:
    """Starts services in the order of their dependencies and ends all of them in the reverse order.

    Belongs to the event loop that ``start`` ran on; no method may be called from another thread. Every service is a process
    group of its own, so Ctrl-C on a terminal reaches only the supervisor's process. When that process is killed, a guardian
    process kills the groups and removes ``folders`` (see ``devstack.guardian``).
    """

    def __init__(
        self,
        services: Iterable[Service],
        *,
        logs: Path,
        folders: Iterable[Path] = (),
        on_change: Callable[[ServiceState], None] | None = None,
    ) -> None:
        """Prepare; nothing runs before ``start``.

        Args:
            services: What to run. Each ``after`` has to name one of them.
            logs: Existing folder for ``<name>.log``.
            folders: Removed by the guardian when this process is killed; ``stop`` leaves them alone.
            on_change: Called on the loop with each new state; must not block or raise.
        """
        self._runs = {service.name: _Run(service, logs / f"{service.name}.log") for service in services}
        self._folders = [str(folder) for folder in folders]
        self._on_change = on_change
        self._levels = self._order()
        self._guardian_pipe: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    def states(self) -> tuple[ServiceState, ...]:
        """Return the present state of every service, in the order given."""
        return tuple(run.state for run in self._runs.values())

    async def start(self) -> None:
        """Start everything and return when all services are ready. Services that do not depend on each other start together.

        Raises:
            ServiceFailedError: A service ended or was not ready in time; the others are stopped already.
        """
        await self._start_guardian()
        ready = {name: asyncio.Event() for name in self._runs}

        async def start_one(run: _Run) -> None:
            for name in run.service.after:
                await ready[name].wait()
            await self._bring_up(run)
            ready[run.service.name].set()

        try:
            async with asyncio.TaskGroup() as group:
                for run in self._runs.values():
                    group.create_task(start_one(run))
        except BaseExceptionGroup as errors:
            await self.stop()
            raise errors.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every service, those that others depend on last, and the guardian. Idempotent; returns when all are gone."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        for level in reversed(self._levels):
            await asyncio.gather(*(self._end(self._runs[name]) for name in level))
        if self._guardian_pipe is not None:
            self._tell_guardian(folders=[])
            os.close(self._guardian_pipe)
            self._guardian_pipe = None
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def kill(self, name: str) -> None:
        """Kill one service with SIGKILL, children included, and return when it is gone. ``restart`` applies as ever."""
        run = self._run(name)
        if run.ended is not None and run.process is not None:
            guardian.kill_group(run.process.pid, signal.SIGKILL)
            self._note_exit(run, "exited", await asyncio.shield(run.ended))

    def pause(self, name: str) -> None:
        """Freeze one service with SIGSTOP: it keeps its port and answers nobody until ``resume``."""
        self._signal_group(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a paused service go on."""
        self._signal_group(name, signal.SIGCONT)

    async def restart(self, name: str) -> None:
        """End one service if it runs, start it on the same arguments, and return when it is ready.

        Raises:
            ServiceFailedError: It ended or was not ready in time; the other services still run.
        """
        run = self._run(name)
        await self._end(run)
        await self._bring_up(run)

    def _run(self, name: str) -> _Run:
        try:
            return self._runs[name]
        except KeyError:
            raise DevstackError(f"there is no service {name!r}", f"There are: {', '.join(self._runs)}.") from None

    def _order(self) -> list[tuple[str, ...]]:
        graph = {run.service.name: tuple(run.service.after) for run in self._runs.values()}
        for name, after in graph.items():
            for needed in after:
                if needed not in graph:
                    raise DevstackError(f"service {name!r} comes after {needed!r}, which is not there")
        sorter = TopologicalSorter(graph)
        sorter.prepare()
        levels = []
        while sorter.is_active():
            levels.append(sorter.get_ready())
            sorter.done(*levels[-1])
        return levels

    def _change(self, run: _Run, **changes: object) -> None:
        run.state = replace(run.state, **changes)  # type: ignore[arg-type]  # names are checked by dataclasses itself
        if self._on_change is not None:
            self._on_change(run.state)

    async def _bring_up(self, run: _Run) -> None:
        """Start a service and wait until it is ready; on failure it has ended."""
        service = run.service
        run.started_at = time.monotonic()
        with run.state.log.open("ab") as log:
            run.process = process = await asyncio.create_subprocess_exec(
                *_tied(service.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **service.env},
                cwd=service.cwd,
                start_new_session=True,
            )
        run.ended = asyncio.create_task(process.wait())
        self._tell_guardian()
        self._change(run, status="starting", pid=process.pid, exit_code=None, ready_after_s=None)
        try:
            await self._until_ready(run, run.ended)
        except BaseException:
            await self._end(run)
            raise
        self._change(run, status="ready", ready_after_s=time.monotonic() - run.started_at)
        self._in_background(self._after_exit(run, run.ended))

    async def _until_ready(self, run: _Run, ended: asyncio.Task[int]) -> None:
        service = run.service
        while not (await passes(service.is_ready) and _listens(run)):
            if not ended.done():
                await asyncio.wait({ended}, timeout=POLL_S)
            if ended.done():
                raise ServiceFailedError(
                    f"{service.name} ended with exit code {ended.result()} before it was ready",
                    f"Its log is {run.state.log}:\n{_tail(run.state.log)}",
                )
            if time.monotonic() - run.started_at > service.ready_within_s:
                raise ServiceFailedError(
                    f"{service.name} was not ready within {service.ready_within_s:g} s",
                    f"Its log is {run.state.log}:\n{_tail(run.state.log)}",
                )

    async def _after_exit(self, run: _Run, ended: asyncio.Task[int]) -> None:
        """Wait for a ready service's end; note it, and start the service again if it asks for that."""
        code = await asyncio.shield(ended)
        if run.state.status == "stopped" or run.ended is not ended:
            return  # on request, or somebody restarted it already
        self._note_exit(run, "exited", code)
        if time.monotonic() - run.started_at > STABLE_AFTER_S:
            run.backoff_s = FIRST_BACKOFF_S
        while run.service.restart and not self._is_stopping:
            await asyncio.sleep(run.backoff_s)
            run.backoff_s = min(run.backoff_s * 2, LONGEST_BACKOFF_S)
            if run.ended is not ended:
                return  # somebody else started it
            self._change(run, restarts=run.state.restarts + 1)
            try:
                await self._bring_up(run)
            except ServiceFailedError:
                self._change(run, status="exited")
                ended = run.ended or ended
            else:
                return  # which watches the new process in its own task

    async def _end(self, run: _Run) -> None:
        """End a service's process, if it has one, in order or else by force."""
        process, ended = run.process, run.ended
        if process is None or ended is None or run.state.status in ("exited", "stopped"):
            return
        self._change(run, status="stopped")  # first, so that nobody takes what follows for a crash
        guardian.kill_group(process.pid, signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(run.service.stop_signal)
        await asyncio.wait({ended}, timeout=run.service.stop_grace_s)
        guardian.kill_group(process.pid, signal.SIGKILL)
        self._note_exit(run, "stopped", await asyncio.shield(ended))

    def _note_exit(self, run: _Run, status: Status, code: int) -> None:
        if run.process is not None:
            guardian.kill_group(run.process.pid, signal.SIGKILL)  # children that it left
        run.process = None
        self._change(run, status=status, pid=None, exit_code=code)
        self._tell_guardian()

    def _signal_group(self, name: str, signal_number: signal.Signals) -> None:
        process = self._run(name).process
        if process is None or not guardian.kill_group(process.pid, signal_number):
            raise DevstackError(f"{name} does not run")

    async def _start_guardian(self) -> None:
        read_end, write_end = os.pipe()
        if self._guardian_pipe is not None:
            os.close(self._guardian_pipe)
        self._guardian_pipe = write_end
        self._tell_guardian()  # before it starts: it must never see the pipe close with nothing in it
        try:
            process = await asyncio.create_subprocess_exec(
                *GUARDIAN_SCRIPT, "watch", str(os.getpid()), stdin=read_end, start_new_session=True
            )
        finally:
            os.close(read_end)
        self._in_background(self._replace_guardian(process))

    async def _replace_guardian(self, process: asyncio.subprocess.Process) -> None:
        try:
            await process.wait()
        except asyncio.CancelledError:
            await process.wait()  # its pipe was closed: it ends by itself, and is not left as a zombie
            raise
        if not self._is_stopping:
            await self._start_guardian()

    def _tell_guardian(self, *, folders: list[str] | None = None) -> None:
        if self._guardian_pipe is None:
            return
        groups = [run.process.pid for run in self._runs.values() if run.process is not None]
        state = {"groups": groups, "folders": self._folders if folders is None else folders}
        with contextlib.suppress(BrokenPipeError):  # its successor is told everything
            os.write(self._guardian_pipe, json.dumps(state).encode() + b"\n")

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def passes(is_ready: Callable[[], Awaitable[bool]]) -> bool:
    """Ask a readiness check; an ``OSError`` and more than 2 s (a paused server accepts and never answers) are no."""
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            return await is_ready()
    except OSError:  # TimeoutError is one
        return False


async def run_to_end(argv: Sequence[str], *, log: Path) -> None:
    """Run a program that ends by itself, tied to this process like a service; cancelling kills it.

    Args:
        argv: Program and arguments.
        log: File that its output is appended to.

    Raises:
        DevstackError: It ended with an exit code other than 0.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *_tied(argv), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        code = await process.wait()
    except BaseException:
        guardian.kill_group(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if code != 0:
        raise DevstackError(f"{Path(argv[0]).name} ended with exit code {code}", f"It said:\n{_tail(log)}")


def _tied(argv: Sequence[str]) -> Sequence[str]:
    if sys.platform != "linux":
        return argv
    return (*GUARDIAN_SCRIPT, "tie", str(os.getpid()), *argv)


def _listens(run: _Run) -> bool:
    if run.service.port is None or run.process is None:
        return True
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(run.process.pid)
        for one in (process, *process.children(recursive=True)):
            for connection in one.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr[1] == run.service.port:
                    return True
    return False


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
