"""The example's Envoy, on free ports, in front of a service that says yes to everything."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from devstack.envoy_proxy import Endpoint, find_server, move
from devstack.ports import LOOPBACK, PortChooser
from tests.integration.enforcer.enforcer_under_test import poll

EXAMPLE = Path(__file__).parents[3] / "examples" / "envoy"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]


class Envoy:
    """One running Envoy."""

    def __init__(self, port: int, admin_port: int) -> None:
        self.port, self._admin_port = port, admin_port

    def get(self, path: str, **headers: str) -> Answer:
        """Ask the service behind Envoy; underscores in names of headers stand for dashes."""
        return self._ask(self.port, path, {name.replace("_", "-"): value for name, value in headers.items()})

    def statuses(self, path: str, times: int, **headers: str) -> list[int]:
        return [self.get(path, **headers).status for _ in range(times)]

    def is_ready(self) -> bool:
        try:
            return self._ask(self._admin_port, "/ready", {}).status == http.client.OK
        except OSError:
            return False

    @staticmethod
    def _ask(port: int, path: str, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
        try:
            connection.putrequest("GET", path)
            for name, value in headers.items():
                connection.putheader(name, value.encode("latin-1"))
            connection.endheaders()
            response = connection.getresponse()
            response.read()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()})
        finally:
            connection.close()


@contextmanager
def run_envoy(enforcer: str, folder: Path) -> Iterator[Envoy]:
    """Run the example's configuration, with the enforcer at ``host:port``."""
    ports = PortChooser()
    edge, backend, admin = ports.choose(), ports.choose(), ports.choose()
    host, _, port = enforcer.rpartition(":")
    places: dict[Endpoint, Endpoint] = {
        (LOOPBACK, 9902): (LOOPBACK, admin),
        (LOOPBACK, 8080): (LOOPBACK, edge),
        (LOOPBACK, 8081): (LOOPBACK, backend),
        (LOOPBACK, 50051): (host, int(port)),
    }
    config = folder / "envoy.yaml"
    config.write_text(yaml.safe_dump(move(yaml.safe_load((EXAMPLE / "envoy.yaml").read_text()), places)))
    command = [str(find_server()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    envoy = Envoy(edge, admin)
    try:
        poll(envoy.is_ready, "Envoy")
        yield envoy
    finally:
        process.terminate()
        process.wait()
