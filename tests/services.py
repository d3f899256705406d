"""Real services for tests, as session fixtures: pytest plugin ``tests.services``.

``REDIS_URL`` and ``KAFKA_BOOTSTRAP`` name servers that the tests may empty; else a Docker engine runs them, where one answers;
else devstack does. Where none of these works a test is skipped, and with ``CI`` set it fails.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster

from devstack import kafka_broker
from devstack.errors import DevstackError
from devstack.kafka_broker import Node
from devstack.ports import LOOPBACK, PortChooser
from devstack.stack import RunningStack, StackSpec, start

REDIS_IMAGE = "redis:8-alpine"
KAFKA_IMAGE = "apache/kafka:4.4.0"
CONTAINER_WITHIN_S = 60.0


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis 7 or newer of the session's own, as ``redis://`` address."""
    if named := os.environ.get("REDIS_URL"):
        yield named
    elif _docker_answers():
        with _redis_container() as url:
            yield url
    else:
        with _or_skip(), start(StackSpec(parts=frozenset({"redis"}))) as stack:
            yield stack.redis_url


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RunningStack]:
    """A Redis Cluster of the session's own: three masters, ``redis-cluster-1`` to ``-3``, and a replica of each.

    Leave it as it was: a test that kills a node for good starts a stack of its own.
    """
    with _or_skip(), start(StackSpec(parts=frozenset(), cluster=True, cluster_replicas=True)) as stack:
        yield stack


@pytest_asyncio.fixture
async def cluster_client(redis_cluster: RunningStack) -> AsyncIterator[RedisCluster]:
    """A client of the emptied cluster."""
    nodes = [ClusterNode(LOOPBACK, port) for port in redis_cluster.addresses.cluster_ports]
    async with RedisCluster(startup_nodes=nodes, require_full_coverage=False) as client:
        await client.flushdb(target_nodes=RedisCluster.PRIMARIES)
        yield client


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """A Kafka of the session's own, as ``host:port``. Topics are not made by themselves."""
    if named := os.environ.get("KAFKA_BOOTSTRAP"):
        yield named
    elif _docker_answers():
        with _kafka_container() as bootstrap:
            yield bootstrap
    else:
        with _or_skip(), start(StackSpec(parts=frozenset({"kafka"}))) as stack:
            yield stack.kafka_bootstrap


@pytest_asyncio.fixture
async def redis_client(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an emptied database; the one that ``redis_url`` names, so that servers under test share it."""
    client = Redis.from_url(redis_url)
    await client.flushdb()
    yield client
    await client.aclose()


@contextmanager
def _or_skip() -> Iterator[None]:
    try:
        yield
    except DevstackError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no service: {error}")


def _docker_answers() -> bool:
    """Ask an engine for a sign of life; docker's own client leaves sockets open when there is none."""
    scheme, _, address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET) as connection, suppress(OSError):
        connection.settimeout(1)
        connection.connect(address if scheme == "unix" else (host, int(port)))
        connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return b" 200 " in connection.recv(64)
    return False


@contextmanager
def _redis_container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer

    port = PortChooser().choose()
    with DockerContainer(REDIS_IMAGE).with_bind_ports(6379, port):
        _wait_until(lambda: _redis_answers(port))
        yield f"redis://{LOOPBACK}:{port}/0"


@contextmanager
def _kafka_container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer

    node = Node(1, PortChooser().choose(), 9093)
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9094, node.port)
    for variable, value in kafka_broker.read_env(kafka_broker.ENV_FILE.read_text()).items():
        container = container.with_env(variable, value)
    advertised = f"PLAINTEXT://localhost:9092,HOST://{LOOPBACK}:{node.port}"
    container = container.with_env("KAFKA_ADVERTISED_LISTENERS", advertised)
    with container.with_env("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093"):
        _wait_until(lambda: kafka_broker.answers(node))
        yield f"{LOOPBACK}:{node.port}"


async def _redis_answers(port: int) -> bool:
    client = Redis(host=LOOPBACK, port=port)
    try:
        return bool(await client.ping())
    finally:
        await client.aclose()


def _wait_until(check: Callable[[], Awaitable[bool]]) -> None:
    async def poll() -> None:
        deadline = time.monotonic() + CONTAINER_WITHIN_S
        while True:
            try:
                if await check():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError("the container did not answer")
            await asyncio.sleep(0.1)

    asyncio.run(poll())
