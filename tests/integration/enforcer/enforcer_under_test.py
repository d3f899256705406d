"""An enforcer as a process of its own, its clients, and readers of what it emits."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2

from ratchet.envoy import rls_pb2_grpc
from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc
from tests.unit.enforcer.builders import POLICIES
from topics.codec import Undecodable, decode
from topics.events import Event
from topics.log import open_log

T = TypeVar("T")
WITHIN_S = 30.0
NOWHERE = "127.0.0.1:1"
"""Where nobody listens."""


def poll(look: Callable[[], T | None], what: str, within_s: float = WITHIN_S) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not seen within {within_s:g} s: {what}"
        time.sleep(0.02)


class EnforcerProcess:
    """``python -m enforcer run`` on free ports."""

    def __init__(self, redis: str, kafka: str, policies: Path, *options: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "enforcer", "run", "--port", "0", "--metrics-port", "0"),
                *("--redis", redis, "--kafka", kafka, "--policies", str(policies)),
                *("--spool", str(policies.parent / "spool"), *options),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            ready = self.wait_for_line("enforcer_ready")
        except BaseException:
            self.process.kill()  # nobody gets this object, so nobody else could end it
            raise
        self.address: str = ready["address"]
        self.source: str = ready["source"]
        self.metrics_url: str = ready["metrics"]
        self.channel = grpc.insecure_channel(self.address)
        self.stub = enforcer_pb2_grpc.EnforcerStub(self.channel)
        self.envoy_stub = rls_pb2_grpc.RateLimitServiceStub(self.channel)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"event": "", "text": line})

    def wait_for_line(self, event: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = next((line for line in self.lines if line.get("event") == event), None)
            assert found or self.process.poll() is None, f"ended with {self.process.returncode}: {self.lines}"
            return found

        return poll(look, event)

    def check(
        self, user: str, action: str = "login", cost: int | None = None, attributes: Mapping[str, str] | None = None
    ) -> enforcer_pb2.CheckResponse:
        request = enforcer_pb2.CheckRequest(user_id=user, action=action, cost=cost, attributes=attributes)
        return self.stub.Check(request, timeout=WITHIN_S)

    def ask_health(self, service: str = "") -> int:
        """Status of one service."""
        call: grpc.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse] = (
            self.channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
        )
        return call(health_pb2.HealthCheckRequest(service=service), timeout=WITHIN_S).status

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of the HTTP pages."""
        try:
            with urllib.request.urlopen(self.metrics_url.replace("/metrics", path), timeout=WITHIN_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def read_metric(self, name: str) -> float:
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def wait_for_redis(self, *, is_there: bool = True) -> None:
        poll(lambda: (self.get("/readyz")[0] == 200) == is_there, "Redis" if is_there else "the loss of Redis")

    def wait_for_kafka(self) -> None:
        poll(lambda: self.read_metric("ratchet_kafka_connected") == 1, "Kafka")

    def wait_until_emitted(self) -> None:
        def look() -> bool:
            return self.read_metric("ratchet_events_offered_total") == self.read_metric("ratchet_events_acknowledged_total")

        poll(look, "the acknowledgement of every event")

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(WITHIN_S)
        self._reader.join()
        return code

    def close(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def run_enforcer(redis: str, kafka: str, folder: Path, *options: str, policies: str = POLICIES) -> Iterator[EnforcerProcess]:
    """Run one enforcer; SIGTERM at the end without a notice to balancers, unless ``options`` say otherwise."""
    file = folder / "policies.yaml"
    file.write_text(policies)
    if "--drain-ms" not in options:
        options = (*options, "--drain-ms", "0")
    enforcer = EnforcerProcess(redis, kafka, file, *options)
    try:
        yield enforcer
    finally:
        enforcer.close()


def read_topic(bootstrap: str, topic: str, source: str) -> list[tuple[int, Event]]:
    """Partition and event of everything that one source wrote."""

    async def read() -> list[tuple[int, Event]]:
        found = []
        async with open_log(bootstrap, topic) as log:
            cut = await log.cut()
            async for batch in log.read(cut):
                for record in batch:
                    with suppress(Undecodable):  # other tests leave records that are no events
                        found.append((record.partition, decode(topic, record.value)))
        return [(partition, event) for partition, event in found if getattr(event, "source", None) == source]

    return asyncio.run(read())
