"""A stack: Redis and Kafka (and Envoy) as real processes on free ports, with addresses that are told, never assumed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from devstack import envoy_proxy, kafka_broker, redis_server
from devstack.errors import DevstackError
from devstack.jars import Progress, Report
from devstack.layout import CLUSTER_MASTERS, Addresses, StackSpec
from devstack.ports import LOOPBACK
from devstack.process import Service, ServiceState, Supervisor

__all__ = ["RunningStack", "Stack", "StackSpec", "start"]

T = TypeVar("T")


class Stack:
    """Servers that run while the context is entered: ``async with Stack(StackSpec()) as stack: ...``.

    Without a folder everything is temporary: logs and data are gone after the exit, also after a kill of this process. With
    one, logs stay there and data is removed. For code that is not async see ``start``.
    """

    def __init__(
        self,
        spec: StackSpec,
        *,
        folder: Path | None = None,
        report: Report | None = None,
        on_change: Callable[[ServiceState], None] | None = None,
    ) -> None:
        """Prepare; nothing runs and no port is chosen before the context is entered.

        Args:
            spec: What to run.
            folder: Where ``logs/`` and ``data/`` are made; None for a temporary folder.
            report: Told what is done while it starts.
            on_change: Told each new state of a service, on the loop; must not block.
        """
        self.spec = spec
        self.addresses = Addresses()
        self._folder = folder
        self._report = report or (lambda _: None)
        self._on_change = on_change
        self._supervisor: Supervisor | None = None
        self._exit = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._supervisor is not None:
            await self._supervisor.stop()
        self._exit.close()

    @property
    def redis_url(self) -> str:
        """``redis://`` address of the Redis server, database 0."""
        return self.addresses.redis_url

    @property
    def kafka_bootstrap(self) -> str:
        """``host:port`` of every broker, joined by commas."""
        return self.addresses.kafka_bootstrap

    def states(self) -> tuple[ServiceState, ...]:
        """Return the present state of every service."""
        return () if self._supervisor is None else self._supervisor.states()

    async def kill(self, name: str) -> None:
        """Kill a service with SIGKILL; it stays down until ``restart``. Names are those of ``states``."""
        await self._running().kill(name)

    async def restart(self, name: str) -> None:
        """Start a service again on the same port and data, after ending it if it runs; return when it is ready.

        Raises:
            ServiceFailedError: It did not become ready; the other services still run.
        """
        await self._running().restart(name)

    async def pause(self, name: str) -> None:
        """Freeze a service with SIGSTOP: it keeps its connections and answers nobody until ``resume``."""
        self._running().pause(name)

    async def resume(self, name: str) -> None:
        """Let a paused service go on."""
        self._running().resume(name)

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise DevstackError("this stack is not started")
        return self._supervisor

    async def _start(self) -> None:
        installation = await kafka_broker.prepare(self._report) if "kafka" in self.spec.parts else None
        logs, data = self._make_folders()
        self.addresses = addresses = Addresses.choose(self.spec)
        services: list[Service] = []
        if addresses.redis_port is not None:
            services.append(redis_server.service("redis", addresses.redis_port, _made(data / "redis")))
            if addresses.replica_port is not None:
                replica_of, folder = addresses.redis_port, _made(data / "redis-replica")
                services.append(redis_server.service("redis-replica", addresses.replica_port, folder, replica_of=replica_of))
            for place, port in enumerate(addresses.sentinel_ports, 1):
                name, count = f"redis-sentinel-{place}", len(addresses.sentinel_ports)
                folder = _made(data / name)
                services.append(redis_server.sentinel(name, port, folder, master_port=addresses.redis_port, sentinels=count))
        for place, (port, bus_port) in enumerate(addresses.cluster_ports.items(), 1):
            name = f"redis-cluster-{place}"
            services.append(redis_server.service(name, port, _made(data / name), bus_port=bus_port))
        if installation is not None:
            cluster_id = kafka_broker.new_id()
            for node in addresses.nodes:
                folder = _made(data / kafka_broker.name(node))
                services.append(kafka_broker.service(installation, node, addresses.nodes, cluster_id, folder))
        if addresses.envoy_port is not None and addresses.envoy_admin_port is not None:
            first, second = ((LOOPBACK, port) for port in self.spec.enforcer_ports)
            folder = _made(data / "envoy")
            ports = addresses.envoy_port, addresses.envoy_admin_port
            services.append(envoy_proxy.service(*ports, (first, second), folder))
        self._report(Progress("starting " + ", ".join(one.name for one in services)))
        self._supervisor = Supervisor(
            services, logs=logs, folders=[data.parent if self._folder is None else data], on_change=self._on_change
        )
        await self._supervisor.start()
        if addresses.cluster_ports:
            await redis_server.form_cluster(addresses.cluster_ports, CLUSTER_MASTERS)

    def _make_folders(self) -> tuple[Path, Path]:
        root = self._folder or Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="ratchet-")))
        data = root / "data"
        shutil.rmtree(data, ignore_errors=True)  # of a stack whose supervisor and guardian were both killed
        if self._folder is not None:
            self._exit.callback(shutil.rmtree, data, ignore_errors=True)
        return _made(root / "logs"), _made(data)


class RunningStack:
    """A started stack for code that is not async; from ``start``. Any thread may call it, one at a time."""

    def __init__(self, stack: Stack, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._stack = stack
        self._run = run
        self.addresses = stack.addresses
        self.redis_url = stack.redis_url if "redis" in stack.spec.parts else ""
        self.kafka_bootstrap = stack.kafka_bootstrap if "kafka" in stack.spec.parts else ""

    def states(self) -> tuple[ServiceState, ...]:
        """Return the present state of every service."""
        return self._stack.states()

    def kill(self, name: str) -> None:
        """Kill a service with SIGKILL; it stays down until ``restart``."""
        self._run(self._stack.kill(name))

    def restart(self, name: str) -> None:
        """Start a service again on the same port and data; return when it is ready (see ``Stack.restart``)."""
        self._run(self._stack.restart(name))

    def pause(self, name: str) -> None:
        """Freeze a service with SIGSTOP until ``resume``."""
        self._run(self._stack.pause(name))

    def resume(self, name: str) -> None:
        """Let a paused service go on."""
        self._run(self._stack.resume(name))


@contextlib.contextmanager
def start(spec: StackSpec, *, folder: Path | None = None, report: Report | None = None) -> Iterator[RunningStack]:
    """Run a stack while the block runs, on an event loop in a thread of its own: for pytest fixtures and scripts.

    Raises:
        DevstackError: The stack could not start; nothing of it runs.
    """
    # A plain loop, whatever policy is set: uvloop starts processes from the main thread alone.
    loop = asyncio.SelectorEventLoop()
    thread = threading.Thread(target=loop.run_forever, name="devstack", daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    stack = Stack(spec, folder=folder, report=report)
    try:
        run(stack.__aenter__())
        yield RunningStack(stack, run)
    finally:
        run(_leave(stack))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _leave(stack: Stack) -> None:
    """End a stack, also one whose start was interrupted and is still clearing up in tasks of its own."""
    await stack.__aexit__(None, None, None)
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
