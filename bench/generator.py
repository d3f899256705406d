"""The native load generator: built on demand into the cache, run once for each measurement.

It is Rust because a client in Python costs more than the server that it asks, and would be what is measured. Only people
who measure need cargo; nothing else calls this module.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from bench.methods import Method
from devstack.jars import cache_folder

SOURCE = Path(__file__).parent / "load"
_SPARE_S = 30.0
"""How much longer than its load a run may take: connecting, and waiting for the last answers."""


class GeneratorError(Exception):
    """The generator could not be built or gave up. The message says why; no part of the measurement is valid."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How often who asks."""

    connections: int = 4
    streams: int = 32
    """Calls under way on each connection in a closed loop; at most so many in an open one."""
    rate_per_s: float = 0.0
    """Calls per second, at even intervals, whatever the server does; 0 for a closed loop."""
    duration_s: float = 5.0
    """0 lasts until ``calls`` are made."""
    calls: int = 0
    """0 lasts for ``duration_s``."""
    first_user: int = 0
    """Loads whose ranges of users do not overlap share no bucket. Abusers are numbered from here as well."""
    users: int = 1_000_000
    """Distinct users, asked for one after the other, over and over."""
    abusers: int = 0
    abuser_share_per_mille: int = 0
    """How many of a thousand decisions an abuser asks for, each abuser equally likely."""
    window_s: float = 1.0
    """Rates and latencies are also reported for windows of this length."""


class Latency(msgspec.Struct, frozen=True):
    """Latency of calls: in a closed loop since they were made, in an open loop since they were due."""

    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


class Window(msgspec.Struct, frozen=True):
    """Part of a run."""

    end_s: float
    calls: int
    latency: Latency


class LoadReport(msgspec.Struct, frozen=True):
    """What the generator saw."""

    elapsed_s: float
    calls: int
    decisions: int
    ok: int
    over_limit: int
    other: int
    """Decisions with an unknown outcome, or with an error in their place."""
    degraded: int
    cached: int
    errors: dict[int, int]
    """Calls by gRPC status, 0 left out; 999 stands for a stream that was reset."""
    unanswered: int
    latency: Latency
    windows: tuple[Window, ...]
    abuser_ok: tuple[int, ...]
    """For each abuser, how many decisions were OK."""
    abuser_asked: int


@functools.cache
def build() -> Path:
    """Return the generator, after building it if its source has changed.

    Raises:
        GeneratorError: cargo is missing or the build failed.
    """
    cargo = shutil.which("cargo")
    if cargo is None:
        raise GeneratorError("cargo is not on PATH; it builds the load generator (bench/README.md)")
    target = cache_folder() / "bench-load"
    arguments = [cargo, "build", "--release", "--quiet", "--manifest-path", str(SOURCE / "Cargo.toml")]
    built = subprocess.run(  # noqa: S603 our own source
        arguments, env={**os.environ, "CARGO_TARGET_DIR": str(target)}, capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise GeneratorError(f"the load generator does not build:\n{built.stderr}")
    return target / "release" / "load"


def describe(method: Method, load: Load, address: str) -> bytes:
    """Write the document that the generator reads (``load/src/spec.rs``)."""
    return msgspec.json.encode({"address": address, **msgspec.to_builtins(method), **msgspec.to_builtins(load)})


def run(method: Method, load: Load, *, address: str, cpus: frozenset[int]) -> LoadReport:
    """Make the calls and wait for the end of them.

    Args:
        method: What to call.
        load: How often, and who asks.
        address: ``host:port`` of the server.
        cpus: Where the generator runs.

    Raises:
        GeneratorError: The server cannot be reached, closed a connection, or broke the protocol. The load was not what it
            should have been: throw the figures away.
    """
    longest_s = load.duration_s or load.calls / max(load.rate_per_s, 100.0)
    with subprocess.Popen(  # noqa: S603 our own program
        [build()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        os.sched_setaffinity(process.pid, cpus)  # before it has its spec, and so before it does anything
        try:
            output, errors = process.communicate(describe(method, load, address), timeout=longest_s + _SPARE_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise GeneratorError("the load generator did not end") from error
    if process.returncode != 0:
        raise GeneratorError(errors.decode(errors="replace").strip() or f"the load generator ended with {process.returncode}")
    return msgspec.json.decode(output, type=LoadReport)
