"""CPU time and memory of processes with all that they started, and the cores that they may use."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its descendants have used."""

    cpu_s: float
    """User and system time since they started, of ended children too."""
    rss_bytes: int


def read_usage(pid: int) -> Usage:
    """Read the usage of a process tree.

    Raises:
        psutil.NoSuchProcess: The process has ended; what it had used can no longer be told.
    """
    cpu_s, rss_bytes = 0.0, 0
    for process in _walk(pid):
        with process.oneshot():
            times = process.cpu_times()
            own_s = _read_cpu_clock(process.pid) if sys.platform == "linux" else times.user + times.system
            cpu_s += own_s + times.children_user + times.children_system
            rss_bytes += process.memory_info().rss
    return Usage(cpu_s, rss_bytes)


def _read_cpu_clock(pid: int) -> float:
    """Read another process's CPU clock: nanoseconds, where /proc counts in steps of 10 ms (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def pin(pid: int, cpus: frozenset[int]) -> None:
    """Let every thread of a process tree run on these cores alone; threads that they start later inherit it. Linux only.

    Raises:
        psutil.NoSuchProcess: The process has ended.
    """
    for process in _walk(pid):
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(thread.id, cpus)


def _walk(pid: int) -> Iterator[psutil.Process]:
    process = psutil.Process(pid)
    yield process
    yield from process.children(recursive=True)
