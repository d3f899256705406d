"""Several workers on one port, as processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc
from tests.integration.enforcer.enforcer_under_test import poll

WORKERS = 2


class Supervised:
    """``python -m enforcer run --workers 2``; its log lines in a file."""

    def __init__(self, redis: str, kafka: str, log: Path, port: int = 0) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "enforcer", "run", "--port", str(port), "--metrics-port", "0"),
                    *("--redis", redis, "--kafka", kafka, "--workers", str(WORKERS), "--redis-timeout-ms", "250"),
                    *("--drain-ms", "0"),
                ],
                stderr=stderr,
            )

    def find(self, event: str) -> list[dict[str, str]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def wait_ready(self, count: int = WORKERS) -> list[dict[str, str]]:
        return poll(lambda: ready if len(ready := self.find("enforcer_ready")) >= count else None, f"{count} workers")

    def check(self, address: str) -> int:
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub: enforcer_pb2_grpc.EnforcerStub = enforcer_pb2_grpc.EnforcerStub(channel)
            return stub.Check(enforcer_pb2.CheckRequest(user_id="w", action="search"), timeout=5, wait_for_ready=True).outcome


@pytest.fixture
def supervised(redis_url: str, kafka_bootstrap: str, tmp_path: Path) -> Iterator[Supervised]:
    running = Supervised(redis_url, kafka_bootstrap, tmp_path / "log")
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait()


def test_workers_share_a_port_and_are_sources_of_their_own(supervised: Supervised) -> None:
    ready = supervised.wait_ready()
    assert len({line["address"] for line in ready}) == 1
    assert {re.sub(r".*/(\d+)/.*", r"\1", line["source"]) for line in ready} == {"0", "1"}
    for _ in range(10):
        assert supervised.check(ready[0]["address"]) == enforcer_pb2.OUTCOME_ALLOW


def test_a_worker_that_dies_is_started_again(supervised: Supervised) -> None:
    ready = supervised.wait_ready()
    os.kill(int(ready[0]["pid"]), signal.SIGKILL)
    again = supervised.wait_ready(WORKERS + 1)
    assert supervised.find("worker_died")
    assert supervised.check(again[-1]["address"]) == enforcer_pb2.OUTCOME_ALLOW


def test_hangup_replaces_every_worker(supervised: Supervised) -> None:
    first = {int(line["pid"]) for line in supervised.wait_ready()}
    supervised.process.send_signal(signal.SIGHUP)
    supervised.wait_ready(2 * WORKERS)
    poll(lambda: not any(map(psutil.pid_exists, first)) or None, "the first workers have ended")
    assert supervised.process.poll() is None


def test_all_drain_when_the_supervisor_is_told_to_end(supervised: Supervised) -> None:
    ready = supervised.wait_ready()
    supervised.process.terminate()
    assert supervised.process.wait(30) == 0
    assert len(supervised.find("enforcer_stopped")) == WORKERS
    assert not any(psutil.pid_exists(int(line["pid"])) for line in ready)


def test_workers_end_when_the_supervisor_is_killed(supervised: Supervised) -> None:
    pids = [int(line["pid"]) for line in supervised.wait_ready()]
    supervised.process.kill()
    supervised.process.wait()
    poll(lambda: not any(map(psutil.pid_exists, pids)) or None, "the workers have ended")


def test_a_port_that_is_taken_is_said(redis_url: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        running = Supervised(redis_url, kafka_bootstrap, tmp_path / "log", port=holder.getsockname()[1])
        assert running.process.wait(30) == 3
    assert "cannot listen on 127.0.0.1:" in (tmp_path / "log").read_text()
