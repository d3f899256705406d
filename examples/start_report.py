"""Tells a person what happens from the first second on: downloads, starts, and each part as it gets ready."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.status import Status

from devstack.jars import Progress
from devstack.process import ServiceState

LINE_EVERY_S = 2.0
"""Without a terminal the progress of a download is told this often at most."""


class StartReport:
    """Prints to a console; a context manager, inside of which a terminal shows what is being done just now."""

    def __init__(self, console: Console) -> None:
        """Prepare; nothing is printed yet."""
        self._console = console
        self._status = Status("starting", console=console)
        self._began = time.monotonic()
        self._last = ""
        self._has_told_download = False
        self._told_at = 0.0
        self._quiet = False
        self._starting: set[str] = set()

    def tell_progress(self, progress: Progress) -> None:
        """Take a step; from any thread."""
        self._status.update(progress.text)
        now = time.monotonic()
        # A download's text changes with every file: a terminal shows it in its status line, a log takes one line now and then.
        is_download = progress.total_bytes > 0
        is_due = now - self._told_at > LINE_EVERY_S and not self._console.is_terminal
        if is_due if is_download and self._has_told_download else progress.text != self._last:
            self._last, self._told_at = progress.text, now
            self._has_told_download = is_download
            self._print(progress.text)

    def tell_state(self, state: ServiceState) -> None:
        """Take a new state of a part."""
        self._starting.discard(state.name)
        if state.status == "starting":
            self._starting.add(state.name)
        self._status.update(f"starting {', '.join(sorted(self._starting))}" if self._starting else "all started")
        if state.status == "ready" and state.ready_after_s is not None:
            again = f" again (restart {state.restarts})" if state.restarts else ""
            self._print(f"{state.name} ready{again} after {state.ready_after_s:.2f} s")
        elif state.status == "exited":
            self._print(f"{state.name} ended by itself, exit code {state.exit_code}; its log is {state.log}")

    def be_quiet(self) -> None:
        """Print no more: a live view has taken the terminal."""
        self._quiet = True

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _print(self, text: str) -> None:
        if not self._quiet:
            self._console.print(
                f"{time.monotonic() - self._began:6.1f} s  {text}", highlight=False, markup=False, soft_wrap=True
            )
