"""A regression test of speed that holds on any machine: the enforcer's CPU per decision against an empty handler's.

Both are measured in turns, in the same run, on the same transport, so a slow or busy machine slows both. It needs Python
packages alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from bench.floor import FloorTransport
from bench.processes import pin, read_usage
from bench.servers import ROOT, Serving, run_enforcer, run_floor
from devstack.stack import StackSpec, start
from enforcer.server import Transport

CALLS = 2_000
TURNS = 3
_CLIENT_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """An enforcer on one transport, the empty handler beside it, and how many times its CPU is allowed."""

    transport: Transport
    floor: FloorTransport
    most: float


COMPARISONS = (Comparison("native", "front", 3.6), Comparison("grpcio", "grpcio", 2.4))


class SmokeFailed(Exception):  # noqa: N818 it says what happened
    """The client's calls were not answered; there is no ratio."""


def run_smoke(tell: Callable[[str], None]) -> bool:
    """Compare on each transport; True when every ratio is within its bound.

    Raises:
        SmokeFailed: A server did not answer every call with OK.
    """
    is_fine = True
    with start(StackSpec(parts=frozenset({"redis", "kafka"}))) as stack:
        for one in COMPARISONS:
            with run_enforcer(stack.redis_url, stack.kafka_bootstrap, one.transport) as ours, run_floor(one.floor) as floor:
                ratio, ours_us, floor_us = compare(ours, floor)
            verdict = "fine" if ratio <= one.most else "TOO SLOW"
            is_fine &= ratio <= one.most
            tell(
                f"{one.transport}: {ours_us:.0f} us of CPU per decision, empty handler {floor_us:.0f} us:"
                f" {ratio:.2f} times, at most {one.most:g} allowed: {verdict}"
            )
    return is_fine


def compare(ours: Serving, floor: Serving) -> tuple[float, float, float]:
    """Measure both in turns; return the median ratio and both medians in microseconds per call.

    Raises:
        SmokeFailed: Not every call was answered OK.
    """
    for serving in (ours, floor):
        measure_us(serving, CALLS // 4)  # connections and caches come once
    pairs = [(measure_us(ours, CALLS), measure_us(floor, CALLS)) for _ in range(TURNS)]
    ratio = statistics.median(one / other for one, other in pairs)
    return ratio, statistics.median(one for one, _ in pairs), statistics.median(other for _, other in pairs)


def measure_us(serving: Serving, calls: int) -> float:
    """Make so many calls; return the server's CPU for each, in microseconds.

    Raises:
        SmokeFailed: Not every call was answered OK.
    """
    arguments = [sys.executable, "-m", "bench.smoke_client", serving.address, str(calls)]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as client:  # noqa: S603 our own module
        if sys.platform == "linux":
            # On one core the calls come in heaps, as under load, however idle the machine is: single calls cost a wake-up each.
            core = frozenset({min(os.sched_getaffinity(0))})
            pin(serving.pid, core)
            pin(client.pid, core)
        before = read_usage(serving.pid)
        try:
            _, errors = client.communicate(timeout=_CLIENT_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            client.kill()
            raise SmokeFailed(f"{serving.address}: {calls} calls took more than {_CLIENT_WITHIN_S:g} s") from error
    if client.returncode != 0:
        raise SmokeFailed(f"{serving.address}: {errors.strip()}")
    return (read_usage(serving.pid).cpu_s - before.cpu_s) / calls * 1e6
