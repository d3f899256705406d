"""Command line: ``python -m enforcer run`` and ``python -m enforcer check-config``."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, Literal

import structlog
import typer
import uvloop

from config.document import DocumentError, read_document
from enforcer.changes import follow_changes
from enforcer.decider import Decider
from enforcer.emission import Emitter
from enforcer.fallback import Fallback
from enforcer.folding import Folder
from enforcer.plan import Planner
from enforcer.policy import Policies, PoliciesDocument
from enforcer.producer import KafkaLog
from enforcer.refusals import Refusals
from enforcer.server import PortTaken, Server, Transport
from enforcer.store import RedisStore
from enforcer.telemetry import Telemetry, configure_logs

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The decision service.")
log = structlog.get_logger("enforcer")

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2
EXIT_PORT_TAKEN = 3


@app.command()
def run(
    policies: Annotated[Path, typer.Option(help="Policies document.", envvar="RATCHET_POLICIES")] = Path(
        "config/policies.yaml"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 takes a free one.")] = 50051,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="HTTP port of /metrics, /healthz, /readyz; 0: a free one.")
    ] = 9464,
    redis: Annotated[
        str, typer.Option(help="redis://, rediss:// or unix:// URL.", envvar="REDIS_URL")
    ] = "redis://127.0.0.1:6379/0",
    kafka: Annotated[str, typer.Option(help="Kafka bootstrap servers.", envvar="KAFKA_BOOTSTRAP")] = "127.0.0.1:9092",
    transport: Annotated[
        Literal["native", "grpcio"], typer.Option(help="HTTP/2 in Rust, or the reference server.", envvar="RATCHET_TRANSPORT")
    ] = "native",
    instance: Annotated[str, typer.Option(help="Name of this enforcer in events.", envvar="RATCHET_INSTANCE")] = "",
    redis_timeout_ms: Annotated[int, typer.Option(min=1, max=1000, help="Then the policy's without_redis decides.")] = 10,
    drain_ms: Annotated[
        int, typer.Option(min=0, max=60_000, help="How long SIGTERM keeps answering, for balancers to notice.")
    ] = 1000,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="Least level to log.")] = "info",
) -> None:
    """Decide checks until SIGTERM or Ctrl-C."""
    configure_logs(log_level)
    try:
        compiled = Policies.compile(read_document(policies, PoliciesDocument))
    except DocumentError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise typer.Exit(EXIT_BAD_CONFIG) from error
    source = f"{instance or socket.gethostname()[:40]}/0/{secrets.token_hex(4)}"
    decider = Decider(
        Planner(compiled),
        RedisStore(redis, redis_timeout_ms / 1000),
        Refusals(),
        Fallback(compiled.expected_enforcers),
        Emitter(source, KafkaLog(kafka, f"ratchet-{source}"), Folder(compiled.foldable)),
    )
    serving = _serve(decider, host, port, metrics_port, transport, drain_ms / 1000)
    raise typer.Exit(uvloop.run(serving))


async def _serve(decider: Decider, host: str, port: int, metrics_port: int, transport: Transport, drain_s: float) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    telemetry = Telemetry(decider)
    try:
        server = Server(decider, host=host, port=port, transport=transport)
        await telemetry.start(host, metrics_port)
    except PortTaken as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_PORT_TAKEN
    except OSError as error:
        sys.stderr.write(f"cannot listen on {host}:{metrics_port} for metrics (--metrics-port): {error.strerror}\n")
        return EXIT_PORT_TAKEN
    exit_code = 0

    def end_with(task: asyncio.Task[None]) -> None:
        nonlocal exit_code
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("enforcer_failed", exc_info=error)
            exit_code = EXIT_FAILED
            stop.set()

    following = loop.create_task(follow_changes(decider.store.url, decider.refusals))
    for task in (decider.store.start(), decider.emitter.start(), following):
        task.add_done_callback(end_with)
    await server.start()
    log.info(
        "enforcer_ready",
        address=f"{host}:{server.port}",
        metrics=f"http://{host}:{telemetry.port}/metrics",
        transport=transport,
        policies=decider.planner.policies.version,
        source=decider.emitter.source,
        pid=os.getpid(),
    )
    await stop.wait()
    log.info("enforcer_drains", seconds=drain_s)
    await server.drain(drain_s)
    following.cancel()
    await decider.store.close()
    await decider.emitter.close(timeout_s=5.0)
    await telemetry.close()
    log.info("enforcer_stopped", decisions=sum(decider.counts.values()))
    return exit_code


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="Policies document.")]) -> None:
    """Validate a policies document: exit 0, or 2 with a line for each problem."""
    try:
        compiled = Policies.compile(read_document(file, PoliciesDocument))
    except DocumentError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise typer.Exit(EXIT_BAD_CONFIG) from error
    policies = list(compiled)
    limits = sum(len(policy.limits) for policy in policies)
    typer.echo(f"{file}: version {compiled.version}: {len(policies)} policies, {limits} limits in force")


if __name__ == "__main__":
    app()
