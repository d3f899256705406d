"""The process that ends a stack when its supervisor is killed. A script of the standard library alone.

A supervisor killed with -9 can end nothing, so two others do it:

* ``guardian.py watch PARENT`` runs beside every supervisor and reads its pipe. Each line is the whole state as JSON,
  ``{"groups": [PID...], "folders": [PATH...]}``. When the pipe closes, or the parent is no longer PARENT, it kills the
  process groups of the last line and removes the folders. An orderly supervisor sends an empty state first.
* ``guardian.py tie PARENT COMMAND...`` becomes COMMAND, on Linux after asking the kernel to kill it when PARENT ends.
  So nothing stays even when supervisor and guardian are killed in the same instant.

A supervisor whose guardian is killed starts another one.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time

POLL_S = 0.5
"""How often the parent's pid is looked at, for when a fork of the parent holds its end of the pipe open."""
GONE_WITHIN_S = 5.0
"""How long killed groups may take to vanish before their folders are removed all the same."""
PR_SET_PDEATHSIG = 1


def watch(parent: int) -> None:
    """Read states from standard input until the parent is gone, then end what the last state names."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    unread, last = b"", b'{"groups": [], "folders": []}'
    while True:
        is_orphan = os.getppid() != parent
        # An orphan takes what the pipe still holds, without waiting.
        readable, _, _ = select.select([0], [], [], 0.0 if is_orphan else POLL_S)
        chunk = os.read(0, 65536) if readable else b""
        *lines, unread = (unread + chunk).split(b"\n")
        last = lines[-1] if lines else last
        if not chunk and (readable or is_orphan):
            break
    state = json.loads(last)
    end(state["groups"], state["folders"])


def end(groups: list[int], folders: list[str]) -> None:
    """Kill process groups, wait until they are gone (at most ``GONE_WITHIN_S``), and remove folders."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while any([kill_group(group, signal.SIGKILL) for group in groups]) and time.monotonic() < deadline:  # noqa: C419 all of them
        time.sleep(0.01)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def kill_group(group: int, signal_number: int) -> bool:
    """Send a signal to a process group.

    Returns:
        False when the group has no process left (or, on macOS, only ones that ended and were not waited for).
    """
    try:
        os.killpg(group, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def tie(parent: int, command: list[str]) -> None:
    """Become ``command``, which the kernel kills when ``parent`` ends (where it can: Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel knew
            sys.exit(1)
    # Python ignores these two, and what is ignored stays so across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 the command is the service's own
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch(int(sys.argv[2]))
    else:
        tie(int(sys.argv[2]), sys.argv[3:])
