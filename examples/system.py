"""The whole system as processes of this machine: what runs, in which order, on which ports.

Redis, Kafka and Envoy from devstack; two enforcers behind Envoy; the detector; the example backend; on request the simulated
traffic. ``make run``, ``make demo`` and the end-to-end tests all start this one definition.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devstack.errors import DevstackError
from devstack.jars import Progress
from devstack.ports import LOOPBACK, PortChooser
from devstack.process import Service, ServiceState, Supervisor
from devstack.stack import Stack, StackSpec
from topics.ensure import ensure

ROOT = Path(__file__).resolve().parent.parent
POLICIES = ROOT / "config" / "policies.yaml"
RULES = ROOT / "config" / "rules.yaml"

ENFORCER_PORTS = (50051, 50052)
BACKEND_PORT = 8080
METRICS_PORTS = (9465, 9466)
DETECTOR_METRICS_PORT = 9464

REDIS_TIMEOUT_MS = 250
"""Far above the default of 10 ms: here everything shares one machine's cores with Kafka and the load itself, and a busy moment
must not make enforcers decide without Redis, each by its share of the limit."""
BALANCED_WITHIN_S = 20.0
"""Envoy takes an enforcer in once its health check has passed."""
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSpec:
    """What to run.

    Attributes:
        policies: The enforcers' document.
        rules: The detector's document.
        default_ports: Take the usual ports where they are free; else random ones.
        traffic: Run the simulated traffic too.
        backend_capacity: Requests that the backend works on without strain; 0: it does no work.
        folder: Where logs stay and data is kept while it runs; None for a temporary one.
    """

    policies: Path = POLICIES
    rules: Path = RULES
    default_ports: bool = False
    traffic: bool = False
    backend_capacity: int = 0
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemAddresses:
    """Where a running system is reached, whoever started it.

    Attributes:
        enforcers: ``host:port`` of each enforcer.
        envoy: ``host:port`` of the load balancer in front of them.
        redis_url: ``redis://`` address.
        kafka: ``host:port`` of the brokers.
        backend: ``http://`` address of the example API; empty where none runs.
        metrics: ``http://`` addresses of the metrics by process.
    """

    enforcers: tuple[str, str]
    envoy: str
    redis_url: str
    kafka: str
    backend: str = ""
    metrics: tuple[tuple[str, str], ...] = ()


class System:
    """The running system; an asynchronous context manager that leaves no process, port or data behind.

    Entering raises ``DevstackError`` when something cannot start; nothing runs then.
    """

    def __init__(
        self,
        spec: SystemSpec,
        *,
        report: Callable[[Progress], None] | None = None,
        on_change: Callable[[ServiceState], None] | None = None,
    ) -> None:
        """Prepare; nothing runs before the context is entered.

        Args:
            spec: What to run.
            report: Told what is done before the first process starts; possibly from another thread.
            on_change: Told each new state of a process; must not block.
        """
        self._spec = spec
        self._on_change = on_change or (lambda _: None)
        chooser = PortChooser()
        choose = partial(_choose, chooser, default_ports=spec.default_ports)
        self._ports = (choose(ENFORCER_PORTS[0]), choose(ENFORCER_PORTS[1]))
        self._metrics = (choose(METRICS_PORTS[0]), choose(METRICS_PORTS[1]), choose(DETECTOR_METRICS_PORT))
        self._backend_port = choose(BACKEND_PORT)
        self._stack = Stack(
            StackSpec(
                parts=frozenset({"redis", "kafka", "envoy"}), enforcer_ports=self._ports, default_ports=spec.default_ports
            ),
            folder=spec.folder,
            report=report,
            on_change=self._note,
        )
        self._processes: Supervisor | None = None
        self._exit = contextlib.AsyncExitStack()
        self._began = 0.0
        self.downloads_s = 0.0
        """Seconds until the first process started: downloads, and on the first start of a machine the preparation of Kafka."""
        self.start_s = 0.0
        """Seconds from then until everything was ready."""

    @property
    def addresses(self) -> SystemAddresses:
        """Where it is reached; known once it is entered."""
        names = ("enforcer-1", "enforcer-2", "detector")
        return SystemAddresses(
            enforcers=(f"{LOOPBACK}:{self._ports[0]}", f"{LOOPBACK}:{self._ports[1]}"),
            envoy=self._stack.addresses.envoy_address,
            redis_url=self._stack.redis_url,
            kafka=self._stack.kafka_bootstrap,
            backend=f"http://{LOOPBACK}:{self._backend_port}",
            metrics=tuple((name, f"http://{LOOPBACK}:{port}/metrics") for name, port in zip(names, self._metrics, strict=True)),
        )

    @property
    def _logs(self) -> Path:
        return self._stack.states()[0].log.parent

    def moved(self) -> dict[str, tuple[int, int]]:
        """Return by part the usual port that was taken and the one in its place, where usual ports were asked for."""
        if not self._spec.default_ports:
            return {}
        ports = self._stack.addresses.ports()
        moved = {name: (usual, ports[name]) for name, usual in self._stack.addresses.moved().items()}
        names = ("enforcer-1", "enforcer-2", "backend", "enforcer-1 metrics", "enforcer-2 metrics", "detector metrics")
        usual_ports = (*ENFORCER_PORTS, BACKEND_PORT, *METRICS_PORTS, DETECTOR_METRICS_PORT)
        chosen = (*self._ports, self._backend_port, *self._metrics)
        own = zip(names, usual_ports, chosen, strict=True)
        return moved | {name: (usual, port) for name, usual, port in own if usual != port}

    def states(self) -> tuple[ServiceState, ...]:
        """Return the present state of every process, servers first."""
        own = () if self._processes is None else self._processes.states()
        return self._stack.states() + own

    async def kill(self, name: str) -> None:
        """Kill one of our own processes with SIGKILL; the supervisor starts it again."""
        if self._processes is not None:
            await self._processes.kill(name)

    async def drain(self) -> None:
        """End our own processes in order, so that the enforcers write everything and close their sources. Servers go on."""
        if self._processes is not None:
            await self._processes.stop()

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        try:
            await self._exit.enter_async_context(self._stack)
            await ensure(self._stack.kafka_bootstrap)
            self._processes = Supervisor(self._describe_processes(), logs=self._logs, on_change=self._note)
            self._exit.push_async_callback(self._processes.stop)
            await self._processes.start()
            await self._wait_until_balanced()
        except BaseException:
            await self._exit.aclose()
            raise
        self.start_s = time.monotonic() - self._began - self.downloads_s
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def _note(self, state: ServiceState) -> None:
        if not self.downloads_s:
            self.downloads_s = time.monotonic() - self._began
        self._on_change(state)

    def _describe_processes(self) -> list[Service]:
        """Describe our own processes. All but the traffic are started again when they die."""
        where = self.addresses
        enforcers = [self._describe_enforcer(number) for number in (1, 2)]
        detector = _module(
            "detector",
            ("detector", "run", "--rules", str(self._spec.rules), *self._servers(), "--metrics-port", str(self._metrics[2])),
            partial(answers_http, self._metrics[2], "/readyz"),
        )
        backend = _module(
            "backend",
            (
                *("examples.backend", "--enforcer", where.envoy, "--port", str(self._backend_port)),
                *("--capacity", str(self._spec.backend_capacity)),
            ),
            partial(answers_http, self._backend_port, "/healthz"),
        )
        if not self._spec.traffic:
            return [*enforcers, detector, backend]
        traffic = _module(
            "traffic",
            ("examples.traffic", "--target", where.backend, "--seconds", "86400"),
            _is_there,
            after=("enforcer-1", "enforcer-2", "detector", "backend"),
        )
        return [*enforcers, detector, backend, traffic]

    def _describe_enforcer(self, number: int) -> Service:
        port, metrics_port = self._ports[number - 1], self._metrics[number - 1]
        ports = ("--port", str(port), "--metrics-port", str(metrics_port))
        options = (*ports, "--instance", f"e{number}", "--redis-timeout-ms", str(REDIS_TIMEOUT_MS))
        return _module(
            f"enforcer-{number}",
            ("enforcer", "run", "--policies", str(self._spec.policies), *self._servers(), *options),
            partial(answers_http, metrics_port, "/readyz"),
            # Beside the servers' data and removed with it, so that no event of this system waits for another one's Kafka.
            env={"RATCHET_SPOOL": str(self._logs.parent / "data" / "spool")},
        )

    def _servers(self) -> tuple[str, ...]:
        return ("--redis", self._stack.redis_url, "--kafka", self._stack.kafka_bootstrap)

    async def _wait_until_balanced(self) -> None:
        deadline = time.monotonic() + BALANCED_WITHIN_S
        while not await serves_grpc(self._stack.addresses.envoy_address):
            if time.monotonic() > deadline:
                raise DevstackError("Envoy does not reach the enforcers", f"Its log is {self._stack.states()[-1].log}.")
            await asyncio.sleep(POLL_S)


async def serves_grpc(address: str) -> bool:
    """Tell whether the gRPC server at ``host:port`` says that it can decide (grpc.health.v1, service ``""``)."""
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def answers_http(port: int, path: str) -> bool:
    """Tell whether ``http://127.0.0.1:port/path`` answers 200."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    finally:
        writer.close()


async def _is_there() -> bool:
    return True


def _module(
    name: str,
    arguments: Sequence[str],
    is_ready: Callable[[], Awaitable[bool]],
    *,
    after: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Service:
    return Service(
        name=name,
        argv=[sys.executable, "-m", *arguments],
        env={"PYTHONUNBUFFERED": "1", **(env or {})},
        cwd=ROOT,
        is_ready=is_ready,
        after=after,
        ready_within_s=60.0,
        restart=True,
    )


def _choose(chooser: PortChooser, usual: int, *, default_ports: bool) -> int:
    return chooser.choose(usual if default_ports else None)
