"""Command line: ``python -m enforcer run``, ``check-config`` and ``schema``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from config.document import DocumentError, read_document
from enforcer.admin.admin_cli import app as admin_app
from enforcer.exit_codes import EXIT_BAD_CONFIG
from enforcer.limits.envoy_domain import list_limits
from enforcer.limits.envoy_files import load_policies
from enforcer.limits.policy_diff import describe_changes
from enforcer.limits.policy_document import PoliciesDocument, write_schema
from enforcer.simulation.simulate import simulate

EXIT_DIFFERENT = 1

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="The decision service.")
app.add_typer(admin_app, name="admin")
app.command()(simulate)


def _check_redis(url: str) -> str:
    """Refuse what is no Redis URL before anything starts."""
    from lua.address import parse_address

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
    transport = transport or ("grpcio" if tls_cert is not None else "native")
    if (tls_cert is None) != (tls_key is None) or (tls_client_ca is not None and tls_cert is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together, and --tls-client-ca with them")
    if tls_cert is not None and transport != "grpcio":
        raise typer.BadParameter("TLS needs --transport grpcio: the native transport speaks in clear, behind a proxy or a mesh")
    from enforcer.calls.tls import TlsFiles
    from enforcer.launch import Options, launch  # a second of imports, which the other commands need not wait for

    options = Options(
        policies=policies,
        host=host,
        port=port,
        metrics_port=metrics_port,
        redis=redis,
        kafka=kafka,
        transport=transport,
        instance=instance,
        redis_timeout_ms=redis_timeout_ms,
        drain_ms=drain_ms,
        access=access,
        tls=None if tls_cert is None or tls_key is None else TlsFiles(tls_cert, tls_key, tls_client_ca),
        spool=spool,
        spool_mb=spool_mb,
        workers=workers,
        worker=worker,
        log_level=log_level,
    )
    raise typer.Exit(launch(options))


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
