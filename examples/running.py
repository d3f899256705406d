"""Which systems of this checkout run, so that another shell can end them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from devstack.state import ProcessId

END_WITHIN_S = 45.0
POLL_S = 0.05


class Running(BaseModel):
    """One process that runs a system, as its file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    process: ProcessId


@contextlib.contextmanager
def recorded(folder: Path, name: str) -> Iterator[None]:
    """Keep a file about this process in ``folder`` while the block runs; one of a killed process does no harm."""
    process = ProcessId.of(os.getpid())
    if process is None:
        raise RuntimeError("this process is not there")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{os.getpid()}.json"
    draft = path.with_suffix(".draft")
    draft.write_text(Running(name=name, process=process).model_dump_json())
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_running(folder: Path) -> list[Running]:
    """Return what runs now, and forget the files of what was killed."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            running = Running.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue  # it ended just now
        except ValidationError:
            path.unlink(missing_ok=True)
            continue
        if running.process.is_alive():
            found.append(running)
        else:
            path.unlink(missing_ok=True)
    return found


def end_running(folder: Path) -> list[Running]:
    """End everything that runs, and return what it was; what does not end in ``END_WITHIN_S`` is killed.

    A killed one leaves nothing behind either: its guardians end its processes.
    """
    found = find_running(folder)
    for one in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + END_WITHIN_S
    while any(one.process.is_alive() for one in found):
        if time.monotonic() > deadline:
            for one in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.process.pid, signal.SIGKILL)
        time.sleep(POLL_S)
    return found
