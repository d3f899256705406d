"""Servers of ours to measure, started on free loopback ports and ended with the block."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc

from bench.floor import FloorTransport
from devstack.ports import LOOPBACK, PortChooser

ROOT = Path(__file__).resolve().parent.parent
POLICIES = Path(__file__).parent / "policies" / "bench.yaml"
_READY_WITHIN_S = 20.0
_STOP_WITHIN_S = 20.0
_TOLD_CHARACTERS = 4000

_ports = PortChooser()


class ServerFailed(Exception):  # noqa: N818 it says what happened
    """The server did not get ready; what it logged is on standard error. Nothing of it runs any more."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers."""

    address: str
    pid: int


@contextlib.contextmanager
def run_enforcer(
    redis_url: str, kafka_bootstrap: str | None, transport: Literal["native", "grpcio"] = "native", *, policies: Path = POLICIES
) -> Iterator[Serving]:
    """Run an enforcer while the block runs.

    Args:
        redis_url: Where its buckets are.
        kafka_bootstrap: Where its events go; None gives it an address where nobody listens, as while Kafka is away.
        transport: Who speaks HTTP/2.
        policies: Its policies.

    Raises:
        ServerFailed: It did not get ready.
    """
    port = _ports.choose()
    arguments = ["enforcer", "run", "--port", str(port), "--metrics-port", "0", "--drain-ms", "0", "--log-level", "warning"]
    arguments += ["--redis", redis_url, "--kafka", kafka_bootstrap or f"{LOOPBACK}:{_ports.choose()}"]
    arguments += ["--transport", transport, "--policies", str(policies), "--instance", "bench"]
    # A spool of its own: the next enforcer must not send what this one could not.
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as spool, _run([*arguments, "--spool", spool], port) as serving:
        yield serving


@contextlib.contextmanager
def run_floor(transport: FloorTransport) -> Iterator[Serving]:
    """Run the server that decides nothing while the block runs.

    Raises:
        ServerFailed: It did not get ready.
    """
    port = _ports.choose()
    with _run(["bench.floor", transport, "--port", str(port)], port) as serving:
        yield serving


@contextlib.contextmanager
def _run(arguments: list[str], port: int) -> Iterator[Serving]:
    address = f"{LOOPBACK}:{port}"
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 our own modules
            [sys.executable, "-m", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            with grpc.insecure_channel(address) as channel:
                try:
                    grpc.channel_ready_future(channel).result(timeout=_READY_WITHIN_S)
                except grpc.FutureTimeoutError as error:
                    raise ServerFailed(f"{arguments[0]} did not get ready") from error
            yield Serving(address, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            output.seek(0)
            # What it warned of explains its figures, and a server that had to be killed has not sent all of its events.
            sys.stderr.write(output.read().decode(errors="replace")[-_TOLD_CHARACTERS:])
            if process.returncode not in {0, -signal.SIGTERM}:
                sys.stderr.write(f"{arguments[0]} ended with {process.returncode}\n")
