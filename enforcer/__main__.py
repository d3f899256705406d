"""Command line: ``python -m enforcer run``, ``check-config`` and ``schema``."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import structlog
import typer
import uvloop

from config.document import DocumentError, read_document
from enforcer.admin.admin_cli import app as admin_app
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
from enforcer.limits.envoy_domain import list_limits
from enforcer.limits.envoy_files import load_policies
from enforcer.limits.policy_diff import describe_changes
from enforcer.limits.policy_document import PoliciesDocument, write_schema
from enforcer.process import EXIT_BAD_CONFIG, EXIT_PORT_TAKEN, Address, serve
from enforcer.reload.in_force import InForce
from enforcer.server import PortTaken, Transport
from enforcer.simulation.simulate import simulate
from enforcer.stores.cluster_store import open_store
from enforcer.telemetry import configure_logs
from enforcer.workers import Workers, hold_port
from lua.address import parse_address

EXIT_DIFFERENT = 1

log = structlog.get_logger("enforcer")
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="The decision service.")
app.add_typer(admin_app, name="admin")
app.command()(simulate)


def _check_redis(url: str) -> str:
    """Refuse what is no Redis URL before anything starts."""
    try:
        parse_address(url)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return url


_POLICIES_HELP = "Policies document; or a file, or a folder of files, of envoyproxy/ratelimit."


@app.command()
def run(
    policies: Annotated[Path, typer.Option(help=_POLICIES_HELP, envvar="RATCHET_POLICIES")] = Path("config/policies.yaml"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 takes a free one.")] = 50051,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="HTTP port of /metrics, /healthz, /readyz; 0: a free one.")
    ] = 9464,
    redis: Annotated[
        str,
        typer.Option(help="Redis URL; see docs/redis.md.", envvar="REDIS_URL", callback=_check_redis),
    ] = "redis://127.0.0.1:6379/0",
    kafka: Annotated[str, typer.Option(help="Kafka bootstrap servers.", envvar="KAFKA_BOOTSTRAP")] = "127.0.0.1:9092",
    transport: Annotated[
        Literal["native", "grpcio"] | None,
        typer.Option(
            help="HTTP/2 in Rust, or the reference server. [default: native; with TLS grpcio]", envvar="RATCHET_TRANSPORT"
        ),
    ] = None,
    instance: Annotated[str, typer.Option(help="Name of this enforcer in events.", envvar="RATCHET_INSTANCE")] = "",
    redis_timeout_ms: Annotated[int, typer.Option(min=1, max=1000, help="Then the policy's without_redis decides.")] = 10,
    drain_ms: Annotated[
        int, typer.Option(min=0, max=60_000, help="How long SIGTERM keeps answering, for balancers to notice.")
    ] = 1000,
    access: Annotated[
        Path | None, typer.Option(help="Access document: who may do what. Without one everybody may.", envvar="RATCHET_ACCESS")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM); needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Authorities (PEM) of client certificates, which then every caller needs.")
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option(
            help="Folder for events while Kafka is away. [default: in the user's state folder]", envvar="RATCHET_SPOOL"
        ),
    ] = None,
    spool_mb: Annotated[int, typer.Option(min=1, help="Most that one process keeps there; then the oldest allows go.")] = 1024,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes on the port; their metrics ports count up.")] = 1,
    worker: Annotated[int | None, typer.Option(min=0, hidden=True, help="Which of them this process is.")] = None,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="Least level to log.")] = "info",
) -> None:
    """Decide checks until SIGTERM or Ctrl-C."""
    configure_logs(log_level)
    transport = transport or ("grpcio" if tls_cert is not None else "native")
    try:
        compiled = load_policies(policies)
        callers = read_callers(access) if access is not None else None
        tls = _read_tls(tls_cert, tls_key, tls_client_ca, transport)
    except DocumentError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise typer.Exit(EXIT_BAD_CONFIG) from error
    except BadCertificate as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(EXIT_BAD_CONFIG) from error
    if workers > 1 and worker is None:
        raise typer.Exit(_supervise(host, port, workers))
    name, boot = f"{instance or socket.gethostname()[:40]}/{worker or 0}", secrets.token_hex(4)
    source = f"{name}/{boot}"
    decider = Decider(
        Planner(compiled, _read_clock_ms),
        open_store(redis, redis_timeout_ms / 1000),
        Refusals(),
        Fallback(compiled.expected_enforcers * workers),
        Emitter(
            source, KafkaLog(kafka, f"ratchet-{source}"), Folder(compiled.foldable), _open_spool(spool, name, boot, spool_mb)
        ),
    )
    address = Address(
        host,
        port,
        metrics_port + (worker or 0) if metrics_port else 0,
        is_shared=worker is not None,
        tls=tls,
        access_file=access,
    )
    in_force = InForce(decider, policies)
    raise typer.Exit(uvloop.run(serve(decider, in_force, Access(callers), address, transport, drain_ms / 1000)))


def _read_tls(certificate: Path | None, key: Path | None, client_authority: Path | None, transport: Transport) -> Tls | None:
    if certificate is None and key is None and client_authority is None:
        return None
    if certificate is None or key is None:
        raise typer.BadParameter("--tls-cert and --tls-key go together, and --tls-client-ca with them")
    if transport != "grpcio":
        raise typer.BadParameter("TLS needs --transport grpcio: the native transport speaks in clear, behind a proxy or a mesh")
    return Tls(TlsFiles(certificate, key, client_authority))


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


@app.command("check-config")
def check_config(
    file: Annotated[Path, typer.Argument(help=_POLICIES_HELP)],
    diff: Annotated[
        Path | None,
        typer.Option(help="Print what changes against this policies document; exit 1 if anything does.", metavar="OLD"),
    ] = None,
) -> None:
    """Validate a policies document, or files of envoyproxy/ratelimit: exit 0, or 2 with a line for each problem."""
    try:
        compiled = load_policies(file)
        changes = []
        if diff is not None:
            changes = describe_changes(read_document(diff, PoliciesDocument), read_document(file, PoliciesDocument))
    except DocumentError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise typer.Exit(EXIT_BAD_CONFIG) from error
    policies = list(compiled)
    limits = sum(len(policy.limits) for policy in policies) + sum(
        len(list(list_limits(root))) for root in compiled.domains.values()
    )
    typer.echo(f"{file}: version {compiled.version}: {len(policies)} policies, {limits} limits in force")
    if diff is not None:
        typer.echo("\n".join(changes) or f"no check is decided otherwise than under {diff}")
        raise typer.Exit(EXIT_DIFFERENT if changes else 0)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the policies document, for editors."""
    typer.echo(json.dumps(write_schema(), indent=2))


if __name__ == "__main__":
    app()
