"""What a stack consists of, and the addresses that it was given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from devstack import envoy_proxy, kafka_broker, redis_server
from devstack.errors import DevstackError
from devstack.kafka_broker import Node
from devstack.ports import LOOPBACK, PortChooser

Part = Literal["redis", "kafka", "envoy"]
T = TypeVar("T")

CLUSTER_MASTERS = 3
REDIS_PORT, KAFKA_PORT, ENVOY_PORT, ENVOY_ADMIN_PORT = 6379, 9092, envoy_proxy.LISTENER[1], envoy_proxy.ADMIN[1]
ENFORCER_PORTS = (50051, 50052)


class StackSpec(BaseModel):
    """What a stack consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    parts: frozenset[Part] = frozenset({"redis", "kafka"})
    """Which servers run."""
    brokers: int = Field(default=1, ge=1, le=9)
    """Kafka brokers, each also a controller; from three on, topics have three replicas."""
    replica: bool = False
    """A second Redis that follows the first, as service ``redis-replica``."""
    sentinels: int = Field(default=0, ge=0, le=9)
    """Sentinels that replace a Redis that dies by its replica, as services ``redis-sentinel-1`` and so on."""
    cluster: bool = False
    """Three more Redis servers that form a cluster of masters, as services ``redis-cluster-1`` and so on."""
    cluster_replicas: bool = False
    """A replica for each of these masters, which takes its place when it dies, as services ``redis-cluster-4`` and so on."""
    enforcer_ports: tuple[int, int] = ENFORCER_PORTS
    """Loopback ports of the two enforcers that Envoy balances; they may start later."""
    default_ports: bool = False
    """Take the usual ports where they are free; else, as in tests, random ones."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.replica and "redis" not in self.parts:
            raise ValueError("a replica needs the part redis, which it follows")
        if self.sentinels and not self.replica:
            raise ValueError("sentinels need a replica, for them to make a master of")
        if self.cluster_replicas and not self.cluster:
            raise ValueError("replicas of a cluster need the cluster")
        if not self.parts and not self.cluster:
            raise ValueError("no part is asked for; there are redis, kafka and envoy")
        return self


class Addresses(BaseModel):
    """The ports that a stack was given, all on 127.0.0.1. Those of parts that it lacks are None or empty."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    redis_port: int | None = None
    replica_port: int | None = None
    sentinel_ports: tuple[int, ...] = ()
    cluster_ports: dict[int, int] = {}
    """Bus port by client port: of the masters, then of their replicas in the same order."""
    nodes: tuple[Node, ...] = ()
    envoy_port: int | None = None
    envoy_admin_port: int | None = None

    @classmethod
    def choose(cls, spec: StackSpec) -> Self:
        """Choose free ports for everything in ``spec``; free now is no promise for later."""
        chooser = PortChooser()

        def choose(usual: int) -> int:
            return chooser.choose(usual if spec.default_ports else None)

        has_envoy = "envoy" in spec.parts
        cluster_nodes = CLUSTER_MASTERS * (1 + spec.cluster_replicas) if spec.cluster else 0
        return cls(
            redis_port=choose(REDIS_PORT) if "redis" in spec.parts else None,
            replica_port=chooser.choose() if spec.replica else None,
            sentinel_ports=tuple(chooser.choose() for _ in range(spec.sentinels)),
            cluster_ports={chooser.choose(): chooser.choose() for _ in range(cluster_nodes)},
            nodes=tuple(
                Node(number, choose(KAFKA_PORT) if number == 1 else chooser.choose(), chooser.choose())
                for number in range(1, spec.brokers + 1 if "kafka" in spec.parts else 1)
            ),
            envoy_port=choose(ENVOY_PORT) if has_envoy else None,
            envoy_admin_port=choose(ENVOY_ADMIN_PORT) if has_envoy else None,
        )

    @property
    def redis_url(self) -> str:
        """``redis://`` address of the Redis server, database 0."""
        return f"redis://{LOOPBACK}:{_present(self.redis_port, 'Redis')}/0"

    @property
    def replica_url(self) -> str:
        """``redis://`` address of the replica, database 0."""
        return f"redis://{LOOPBACK}:{_present(self.replica_port, 'Redis replica')}/0"

    @property
    def sentinel_url(self) -> str:
        """``redis+sentinel://`` address of the master that the sentinels name, database 0."""
        ports = _present(self.sentinel_ports or None, "sentinel")
        return f"redis+sentinel://{','.join(f'{LOOPBACK}:{port}' for port in ports)}/{redis_server.MASTER}/0"

    @property
    def cluster_url(self) -> str:
        """``redis+cluster://`` address of every node of the Redis Cluster."""
        ports = _present(self.cluster_ports or None, "Redis Cluster")
        return f"redis+cluster://{','.join(f'{LOOPBACK}:{port}' for port in ports)}"

    @property
    def kafka_bootstrap(self) -> str:
        """``host:port`` of every broker, joined by commas."""
        nodes = _present(self.nodes or None, "Kafka")
        return ",".join(f"{LOOPBACK}:{node.port}" for node in nodes)

    @property
    def envoy_address(self) -> str:
        """``host:port`` where Envoy takes gRPC calls for the enforcers."""
        return f"{LOOPBACK}:{_present(self.envoy_port, 'Envoy')}"

    @property
    def envoy_admin(self) -> str:
        """``http://`` address of Envoy's admin pages."""
        return f"http://{LOOPBACK}:{_present(self.envoy_admin_port, 'Envoy')}"

    def ports(self) -> dict[str, int]:
        """Return each service's port for clients by the service's name."""
        named = {"redis": self.redis_port, "redis-replica": self.replica_port}
        named |= {f"redis-sentinel-{place}": port for place, port in enumerate(self.sentinel_ports, 1)}
        named |= {f"redis-cluster-{place}": port for place, port in enumerate(self.cluster_ports, 1)}
        named |= {kafka_broker.name(node): node.port for node in self.nodes}
        named |= {"envoy": self.envoy_port}
        return {name: port for name, port in named.items() if port is not None}

    def named(self) -> dict[str, str]:
        """Return what programs need to know, by its name here; only what the stack has."""
        named = {
            "redis_url": self.redis_port and self.redis_url,
            "replica_url": self.replica_port and self.replica_url,
            "sentinel_url": self.sentinel_ports and self.sentinel_url,
            "cluster_url": self.cluster_ports and self.cluster_url,
            "kafka_bootstrap": self.nodes and self.kafka_bootstrap,
            "envoy_address": self.envoy_port and self.envoy_address,
            "envoy_admin": self.envoy_admin_port and self.envoy_admin,
        }
        return {name: str(address) for name, address in named.items() if address}

    def checks(self) -> dict[str, Callable[[], Awaitable[bool]]]:
        """Return by service name what asks the server itself whether it can be used (see ``process.passes``)."""
        checks: dict[str, Callable[[], Awaitable[bool]]] = {
            name: partial(redis_server.answers, port) for name, port in self.ports().items() if "redis" in name
        }
        checks |= {kafka_broker.name(node): partial(kafka_broker.answers, node) for node in self.nodes}
        if self.envoy_admin_port is not None:
            checks["envoy"] = partial(envoy_proxy.answers, self.envoy_admin_port)
        return checks

    def moved(self) -> dict[str, int]:
        """Return by service name the usual ports that were taken, for a stack that asked for them."""
        usual = {"redis": REDIS_PORT, "kafka": KAFKA_PORT, "envoy": ENVOY_PORT}
        return {name: usual[name] for name, port in self.ports().items() if usual.get(name, port) != port}


def _present(value: T | None, part: str) -> T:
    if value is None:
        raise DevstackError(f"this stack has no {part}", "Ask for it in its StackSpec.")
    return value
