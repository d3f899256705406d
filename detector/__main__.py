"""Command line: ``python -m detector run | rebuild | check-rules | test-rules | schema | backtest | explain``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from redis.exceptions import RedisError

from config.declared import DeclaredPolicies
from config.document import DocumentError, Model, place_problems, read_document
from detector.backtest_command import backtest
from detector.explain_command import explain
from detector.feeding import find_hungry, find_misfits, is_claimed
from detector.fixtures import Fixtures
from detector.logs import configure_logs
from detector.rules import Rules, find_risks, may_lock_out, write_schema
from detector.trials import try_rules
from lua.address import parse_address
from topics.errors import HistoryLost, KafkaUnavailable, TopicMissing
from topics.specs import DENIALS

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Turns denials into bans.")
app.command("backtest")(backtest)
app.command("explain")(explain)

EXIT_BAD_CONFIG = 2
EXIT_PORT_TAKEN = 3


def _read(path: Path, model: type[Model], exit_code: int) -> Model:
    try:
        return read_document(path, model).model
    except DocumentError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise typer.Exit(exit_code) from error


def _check_redis(url: str) -> str:
    """Refuse what is no Redis URL before anything starts."""
    try:
        parse_address(url)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return url


@app.command()
def run(
    rules: Annotated[Path, typer.Option(help="Rules document.", envvar="RATCHET_RULES")] = Path("config/rules.yaml"),
    kafka: Annotated[str, typer.Option(help="Kafka bootstrap servers.", envvar="KAFKA_BOOTSTRAP")] = "127.0.0.1:9092",
    redis: Annotated[
        str,
        typer.Option(help="redis://, rediss://, unix:// or redis+sentinel:// URL.", envvar="REDIS_URL", callback=_check_redis),
    ] = "redis://127.0.0.1:6379/0",
    host: Annotated[str, typer.Option(help="Address of /metrics, /healthz, /readyz.")] = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 takes a free one.")] = 9464,
    instance: Annotated[
        str,
        typer.Option(help="Stable name among all detectors; a restart then moves no partition.", envvar="RATCHET_INSTANCE"),
    ] = "",
) -> None:
    """Count denials and ban, until SIGTERM or Ctrl-C (exit 0), or a failure that a restart heals (exit 1)."""
    from detector.process import Settings, run

    configure_logs()
    document = _read(rules, Rules, EXIT_BAD_CONFIG)
    settings = Settings(rules=rules, kafka=kafka, redis=redis, host=host, metrics_port=metrics_port, instance=instance)
    try:
        code = asyncio.run(run(settings, document))
    except OSError as error:
        sys.stderr.write(f"cannot listen on {host}:{metrics_port} (--metrics-port): {error.strerror}\n")
        code = EXIT_PORT_TAKEN
    sys.stdout.flush()
    # Faust's consumer thread may hang in a dead connection; everything that matters is written by now.
    os._exit(code)


@app.command()
def rebuild(
    rules: Annotated[Path, typer.Option(help="Rules document.", envvar="RATCHET_RULES")] = Path("config/rules.yaml"),
    kafka: Annotated[str, typer.Option(help="Kafka bootstrap servers.", envvar="KAFKA_BOOTSTRAP")] = "127.0.0.1:9092",
    redis: Annotated[
        str, typer.Option(help="Redis URL, as of run.", envvar="REDIS_URL", callback=_check_redis)
    ] = "redis://127.0.0.1:6379/0",
    verify: Annotated[bool, typer.Option("--verify", help="Change nothing: exit 1 with a line for each difference.")] = False,
) -> None:
    """Put back what is held against subjects, from topic subjects. Safe at any time; a running detector does so by itself."""
    from detector.rebuild import run_once

    configure_logs()
    document = _read(rules, Rules, EXIT_BAD_CONFIG)
    keep_ms = DENIALS.retention_ms + document.longest_penalty_ms
    try:
        told, restored, differences = asyncio.run(run_once(redis, kafka, keep_ms=keep_ms, is_verify=verify))
    except (KafkaUnavailable, TopicMissing, HistoryLost, RedisError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        raise typer.Exit(1) from error
    for difference in differences:
        typer.echo(difference)
    if verify:
        typer.echo(f"{told} subjects compared: {len(differences) or 'no'} differences")
    else:
        typer.echo(f"{told} subjects known: {restored} put back")
    if differences:
        raise typer.Exit(1)


@app.command("check-rules")
def check_rules(
    file: Annotated[Path, typer.Argument(help="Rules document.")],
    policies: Annotated[Path | None, typer.Option(help="Policies document: what the rules name has to be there.")] = None,
) -> None:
    """Validate a rules document: exit 0, or 1 with a line for each problem. Risks are told, and are no problem."""
    rules = _read(file, Rules, 1)
    risks = [*find_risks(rules)]
    claimed = [rule for rule in rules.rules if may_lock_out(rules, rule)]
    if policies is not None:
        declared = _read(policies, DeclaredPolicies, 1)
        if problems := find_misfits(rules, declared):
            placed = place_problems(file, problems)
            sys.stderr.write(f"{placed}\n")
            raise typer.Exit(1)
        risks += find_hungry(rules, declared)
        claimed = [rule for rule in claimed if is_claimed(rule, declared)]
    risks += [
        f"rule {rule.name}: bans users; where the user id is a mere claim of the caller, a forger could lock others out"
        for rule in claimed
    ]
    for risk in risks:
        typer.echo(f"{file}: warning: {risk}", err=True)
    typer.echo(f"{file}: version {rules.digest}: {len(rules.rules)} rules, {len(rules.ladder.rungs)} rungs")


@app.command("test-rules")
def try_on_fixtures(
    fixtures: Annotated[
        list[Path] | None, typer.Argument(help="Files of fixtures, or folders of them; without any, RULES-fixtures beside it.")
    ] = None,
    rules: Annotated[Path, typer.Option(help="Rules document.", envvar="RATCHET_RULES")] = Path("config/rules.yaml"),
) -> None:
    """Try rules on their fixtures: exit 0, 1 if a verdict or a threshold is not as they say, or 2 for a bad document."""
    document = _read(rules, Rules, EXIT_BAD_CONFIG)
    places = fixtures or [rules.with_name(f"{rules.stem}-fixtures")]
    paths = [path for place in places for path in (sorted(place.glob("*.yaml")) if place.is_dir() else [place])]
    trials, problems = try_rules(document, [(str(path), _read(path, Fixtures, EXIT_BAD_CONFIG)) for path in paths])
    for trial in trials:
        typer.echo(f"{trial.name}: {trial.fixtures} fixtures, {len(trial.problems) or 'no'} problems")
        for problem in trial.problems:
            typer.echo(f"{trial.name}: {problem}", err=True)
    for problem in problems:
        typer.echo(f"{rules}: {problem}", err=True)
    if problems or any(trial.problems for trial in trials):
        raise typer.Exit(1)
    typer.echo(f"{rules}: version {document.digest}: {len(document.rules)} rules, every threshold pinned")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the rules document, for editors."""
    typer.echo(json.dumps(write_schema(), indent=2))


if __name__ == "__main__":
    app()
