"""The state folder: how a detached supervisor tells others what runs, and how they find out whether it lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from devstack.errors import DevstackError
from devstack.layout import Addresses, StackSpec
from devstack.process import ServiceState

ROOT = Path(__file__).parent.parent
DEFAULT_FOLDER = ROOT / ".devstack"
SAME_START_S = 1.0
"""Two readings of a process's start may differ by this; a pid that was given again started later."""


class ProcessId(BaseModel):
    """A process that cannot be confused with a later one of the same pid.

    Attributes:
        pid: Its process id.
        started_at_s: When it started, in seconds since the epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started_at_s: float

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Identify a running process; None when there is none."""
        try:
            return cls(pid=pid, started_at_s=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def is_alive(self) -> bool:
        """Tell whether this very process still runs (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started_at_s) < SAME_START_S
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class StackState(BaseModel):
    """What ``state.json`` says. Written by the supervisor alone, whole, on every change.

    Attributes:
        supervisor: The process that runs the stack.
        spec: What was asked for.
        addresses: The chosen ports; empty before they are chosen.
        services: What runs, in the order of its description.
        processes: The services' processes, to end them when the supervisor was killed together with its guardian.
        phase: ``starting``, ``ready`` once everything was ready, ``failed`` with ``error``.
        doing: What is being done while starting, in words.
        done_bytes: Bytes of that which are done; 0 where it has none.
        total_bytes: Bytes of that; 0 where it has none.
        error: Why it failed.
        ready_after_s: Seconds from the supervisor's start until everything was ready.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    supervisor: ProcessId
    spec: StackSpec
    addresses: Addresses = Addresses()
    services: tuple[ServiceState, ...] = ()
    processes: tuple[ProcessId, ...] = ()
    phase: Literal["starting", "ready", "failed"] = "starting"
    doing: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    error: str = ""
    ready_after_s: float | None = None

    def is_up(self) -> bool:
        """Tell whether its supervisor lives."""
        return self.supervisor.is_alive()


class StateFolder:
    """A folder that belongs to one detached stack: ``state.json``, ``lock``, ``logs/`` and, while it runs, ``data/``."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self._state = self.path / "state.json"
        self._lock = self.path / "lock"

    @contextlib.contextmanager
    def owned(self) -> Iterator[bool]:
        """Try to become the folder's only supervisor; False when another one lives. Ends with the process at the latest."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def read(self) -> StackState | None:
        """Return the last state that a supervisor wrote, None when there is none.

        Raises:
            DevstackError: The file is not one of ours.
        """
        try:
            return StackState.model_validate_json(self._state.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            remedy = "If another version wrote it: end its processes and remove the folder."
            raise DevstackError(f"{self._state} cannot be understood: {error.errors()[0]['msg']}", remedy) from error

    def write(self, state: StackState) -> None:
        """Replace the state in one step, so that a reader sees the old one or the new one."""
        draft = self._state.with_suffix(".draft")
        draft.write_text(state.model_dump_json(indent=1))
        draft.replace(self._state)

    def forget(self) -> None:
        """Remove the state and the data; logs stay."""
        shutil.rmtree(self.path / "data", ignore_errors=True)
        self._state.unlink(missing_ok=True)


def end_processes(processes: tuple[ProcessId, ...], *, within_s: float = 5.0) -> int:
    """Kill what is left of a stack whose supervisor and guardian are gone; return how many there were.

    Raises:
        DevstackError: Some are still there after ``within_s``.
    """
    left = [one for one in processes if one.is_alive()]
    for one in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(one.pid, signal.SIGKILL)
    deadline = time.monotonic() + within_s
    while any(one.is_alive() for one in left):
        if time.monotonic() > deadline:
            raise DevstackError(f"processes {[one.pid for one in left if one.is_alive()]} could not be ended")
        time.sleep(0.02)
    return len(left)
