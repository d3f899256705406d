"""Put one enforcer together, and run it: what ``python -m enforcer run`` does with its options."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from config.document import DocumentError
from enforcer.calls.access import Access
from enforcer.calls.decider import Decider
from enforcer.calls.guard import read_callers
from enforcer.calls.tls import BadCertificate, Tls, TlsFiles
from enforcer.decisions.fallback import Fallback
from enforcer.decisions.planner import Planner
from enforcer.decisions.refusals import Refusals
from enforcer.events.emission import Emitter
from enforcer.events.folding import Folder
from enforcer.events.producer import KafkaLog
from enforcer.events.spool import Spool
from enforcer.exit_codes import EXIT_BAD_CONFIG, EXIT_PORT_TAKEN
from enforcer.limits.envoy_files import load_policies
from enforcer.process import Address, serve
from enforcer.reload.in_force import InForce
from enforcer.server import PortTaken, Transport
from enforcer.stores.cluster_store import open_store
from enforcer.telemetry import configure_logs
from enforcer.workers import Workers, hold_port

log = structlog.get_logger("enforcer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an operator sets; ``python -m enforcer run --help`` says what each is."""

    policies: Path
    host: str
    port: int
    metrics_port: int
    redis: str
    kafka: str
    transport: Transport
    instance: str
    redis_timeout_ms: int
    drain_ms: int
    access: Path | None
    tls: TlsFiles | None
    spool: Path | None
    spool_mb: int
    workers: int
    worker: int | None
    log_level: str


def launch(options: Options) -> int:
    """Run one enforcer, or the supervisor of several, until it is told to end; returns the exit code."""
    configure_logs(options.log_level)
    try:
        compiled = load_policies(options.policies)
        callers = read_callers(options.access) if options.access is not None else None
        tls = Tls(options.tls) if options.tls is not None else None
    except DocumentError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        return EXIT_BAD_CONFIG
    except BadCertificate as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_CONFIG
    worker, metrics_port = options.worker, options.metrics_port
    if options.workers > 1 and worker is None:
        return _supervise(options.host, options.port, options.workers)
    name, boot = f"{options.instance or socket.gethostname()[:40]}/{worker or 0}", secrets.token_hex(4)
    source = f"{name}/{boot}"
    decider = Decider(
        Planner(compiled, _read_clock_ms),
        open_store(options.redis, options.redis_timeout_ms / 1000),
        Refusals(),
        Fallback(compiled.expected_enforcers * options.workers),
        Emitter(
            source,
            KafkaLog(options.kafka, f"ratchet-{source}"),
            Folder(compiled.foldable),
            _open_spool(options.spool, name, boot, options.spool_mb),
        ),
    )
    address = Address(
        options.host,
        options.port,
        metrics_port + (worker or 0) if metrics_port else 0,
        is_shared=worker is not None,
        tls=tls,
        access_file=options.access,
    )
    in_force = InForce(decider, options.policies)
    return uvloop.run(serve(decider, in_force, Access(callers), address, options.transport, options.drain_ms / 1000))


def _read_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _open_spool(root: Path | None, name: str, boot: str, megabytes: int) -> Spool | None:
    if root is None:
        root = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ratchet" / "spool"
    spool = Spool(root / name.replace("/", "-") / boot, megabytes * 1024 * 1024)
    try:
        spool.open()
    except OSError as error:
        log.warning("no_spool", folder=str(spool.folder), error=str(error), events="wait in memory alone while Kafka is away")
        return None
    return spool


def _supervise(host: str, port: int, count: int) -> int:
    try:
        held = hold_port(host, port)
    except OSError as error:
        sys.stderr.write(f"{PortTaken(f'{host}:{port}')} ({error.strerror})\n")
        return EXIT_PORT_TAKEN
    with held:
        command = [sys.executable, "-m", "enforcer", *sys.argv[1:], "--port", str(held.getsockname()[1])]
        return asyncio.run(Workers(command, count).run())
