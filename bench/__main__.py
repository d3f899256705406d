"""Command line: ``python -m bench rls | check | batch | call | all | soak | plot | smoke`` (bench/README.md)."""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer

from bench import methods, scenarios, suite
from bench.generator import GeneratorError, Load
from bench.measure import Bound, Target, measure
from bench.methods import Method
from bench.suite import Parts, Peer
from bench.tables import Results, write_run, write_table

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Measure rate limit servers.")

EXIT_FAILED = 1
say = functools.partial(print, flush=True)


def _parse_cpus(value: str) -> str:
    if not all(part.isdigit() for part in value.split(",")):
        raise typer.BadParameter(f"{value!r} is no list of cores; write 0 or 0,1")
    return value


Address = Annotated[str, typer.Option(help="host:port of the server, without TLS.")]
ServerPid = Annotated[int, typer.Option(help="Process id of the server; its children count too.")]
RedisUrl = Annotated[str | None, typer.Option(help="redis:// URL of the Redis that it uses.")]
KafkaPid = Annotated[int | None, typer.Option(help="Process id of the Kafka broker.")]
ServerCpus = Annotated[str, typer.Option(help="Cores of the server.", callback=_parse_cpus)]
LoadCpus = Annotated[str, typer.Option(help="Cores of load, Redis and Kafka.", callback=_parse_cpus)]
Connections = Annotated[int, typer.Option(min=1, max=1000)]
Streams = Annotated[int, typer.Option(min=1, max=1000, help="Calls under way on a connection; with --rate at most so many.")]
Rate = Annotated[float, typer.Option(min=0, help="Calls per second (open loop); 0: as many as it answers (closed loop).")]
Seconds = Annotated[float, typer.Option(min=0.1, max=86_400)]
Users = Annotated[int, typer.Option(min=1, help="Distinct users.")]
Abusers = Annotated[int, typer.Option(min=0, max=1_000_000, help="Users who ask again and again.")]
AbuserShare = Annotated[float, typer.Option(min=0, max=1, help="Share of the decisions that abusers ask for.")]
Capacity = Annotated[int | None, typer.Option(help="Capacity of the limit that abusers run into: judges over-admission.")]
Refill = Annotated[float, typer.Option(help="Refill of that limit, in tokens per second.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the measurement to this file.")]


def _measure(target: Target, method: Method, load: Load, bound: Bound | None, file: Path | None) -> None:
    try:
        seen = measure(target, method, msgspec.structs.replace(load, first_user=scenarios.choose_users()), bound=bound)
    except (GeneratorError, psutil.NoSuchProcess) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(EXIT_FAILED) from error
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(seen)))
    say(write_run(seen))


def _target(address: str, pid: int, redis: str | None, kafka_pid: int | None, server_cpus: str, load_cpus: str) -> Target:
    return Target(
        address,
        pid,
        redis,
        kafka_pid,
        frozenset(map(int, server_cpus.split(","))),
        frozenset(map(int, load_cpus.split(","))),
    )


def _load(
    connections: int, streams: int, rate: float, seconds: float, users: int, abusers: int = 0, abuser_share: float = 0.0
) -> Load:
    return Load(
        connections=connections,
        streams=streams,
        rate_per_s=rate,
        duration_s=seconds,
        users=users,
        abusers=abusers,
        abuser_share_per_mille=round(abuser_share * 1000),
        window_s=max(1.0, seconds / 10),
    )


@app.command()
def rls(
    address: Address,
    server_pid: ServerPid,
    domain: Annotated[str, typer.Option(help="Domain of the requests.")] = "bench_open",
    descriptors: Annotated[
        str, typer.Option(help="Keys of the descriptors: a,b is one of two entries, a/b are two.")
    ] = "user_id",
    redis: RedisUrl = None,
    kafka_pid: KafkaPid = None,
    server_cpus: ServerCpus = "0",
    load_cpus: LoadCpus = "1",
    connections: Connections = 4,
    streams: Streams = 32,
    rate: Rate = 0.0,
    seconds: Seconds = 8.0,
    users: Users = 1_000_000,
    abusers: Abusers = 0,
    abuser_share: AbuserShare = 0.0,
    capacity: Capacity = None,
    refill: Refill = 0.0,
    json: Json = None,
) -> None:
    """Measure any server that speaks Envoy's rate limit service, version 3."""
    method = methods.should_rate_limit(domain, [keys.split(",") for keys in descriptors.split("/")])
    target = _target(address, server_pid, redis, kafka_pid, server_cpus, load_cpus)
    load = _load(connections, streams, rate, seconds, users, abusers, abuser_share)
    _measure(target, method, load, None if capacity is None else Bound(capacity, refill), json)


@app.command()
def check(
    address: Address,
    server_pid: ServerPid,
    action: Annotated[str, typer.Option(help="Action of the checks.")] = "bench_open",
    redis: RedisUrl = None,
    kafka_pid: KafkaPid = None,
    server_cpus: ServerCpus = "0",
    load_cpus: LoadCpus = "1",
    connections: Connections = 4,
    streams: Streams = 32,
    rate: Rate = 0.0,
    seconds: Seconds = 8.0,
    users: Users = 1_000_000,
    json: Json = None,
) -> None:
    """Measure the enforcer's Check."""
    target = _target(address, server_pid, redis, kafka_pid, server_cpus, load_cpus)
    _measure(target, methods.check(action), _load(connections, streams, rate, seconds, users), None, json)


@app.command()
def batch(
    address: Address,
    server_pid: ServerPid,
    action: Annotated[str, typer.Option(help="Action of the checks.")] = "bench_open",
    checks: Annotated[int, typer.Option(min=1, max=250, help="Checks in one call.")] = scenarios.CHECKS_PER_BATCH,
    redis: RedisUrl = None,
    kafka_pid: KafkaPid = None,
    server_cpus: ServerCpus = "0",
    load_cpus: LoadCpus = "1",
    connections: Connections = 2,
    streams: Streams = 2,
    rate: Rate = 0.0,
    seconds: Seconds = 8.0,
    users: Users = 1_000_000,
    json: Json = None,
) -> None:
    """Measure the enforcer's CheckBatch; figures are per check, latencies per call."""
    target = _target(address, server_pid, redis, kafka_pid, server_cpus, load_cpus)
    _measure(target, methods.check_batch(action, checks), _load(connections, streams, rate, seconds, users), None, json)


@app.command()
def call(
    address: Address,
    server_pid: ServerPid,
    method: Annotated[Path, typer.Option(help="JSON file of a method (bench/methods.py), for other protocols.", exists=True)],
    redis: RedisUrl = None,
    server_cpus: ServerCpus = "0",
    load_cpus: LoadCpus = "1",
    connections: Connections = 4,
    streams: Streams = 32,
    rate: Rate = 0.0,
    seconds: Seconds = 8.0,
    users: Users = 1_000_000,
    json: Json = None,
) -> None:
    """Measure a unary method of any server."""
    target = _target(address, server_pid, redis, None, server_cpus, load_cpus)
    read = msgspec.json.decode(method.read_bytes(), type=Method)
    _measure(target, read, _load(connections, streams, rate, seconds, users), None, json)


@app.command("all")
def measure_all(
    rounds: Annotated[int, typer.Option(min=1, max=100, help="The table has the medians of so many rounds.")] = 3,
    seconds: Seconds = 8.0,
    peer: Annotated[
        list[str] | None, typer.Option(help="name=host:port,pid[,methods.json] of a running server; repeatable.")
    ] = None,
    redis: Annotated[str | None, typer.Option(help="Redis that runs already; with --kafka and --kafka-pid.")] = None,
    kafka: Annotated[str | None, typer.Option(help="Bootstrap server of the Kafka that runs already.")] = None,
    kafka_pid: KafkaPid = None,
    out: Annotated[Path, typer.Option(help="File for all figures.")] = Path("bench-results.json"),
) -> None:
    """Start Redis, Kafka and enforcers, measure every scenario beside running peers, print the table."""
    peers = [_parse_peer(text) for text in peer or []]
    given = None if redis is None or kafka is None or kafka_pid is None else Parts(redis, kafka, kafka_pid)
    try:
        with contextlib.nullcontext(given) if given is not None else suite.run_parts() as parts:
            results = suite.run_all(rounds, seconds, parts, peers, say)
    except (GeneratorError, psutil.NoSuchProcess) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(EXIT_FAILED) from error
    out.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    say(
        f"\n{results.machine}; medians of {rounds} rounds of {seconds:g} s\n\n{write_table(results.rows)}\n\nall figures: {out}"
    )


def _parse_peer(text: str) -> Peer:
    name, _, rest = text.partition("=")
    address, pid, file, *_ = [*rest.split(","), "", ""]
    if not name or ":" not in address or not pid.isdigit():
        raise typer.BadParameter(f"{text!r}: write name=host:port,pid[,methods.json]", param_hint="--peer")
    return Peer(name, address, int(pid), Path(file) if file else None)


@app.command()
def soak(seconds: Seconds = 1800.0) -> None:
    """Half the peak rate for a long time: memory, drift of latency, and the audit."""
    try:
        say(write_run(suite.run_soak(seconds, say)))
    except GeneratorError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(EXIT_FAILED) from error


@app.command()
def plot(
    results: Annotated[Path, typer.Argument(help="File that `all` wrote.", exists=True)],
    out: Annotated[Path, typer.Argument(help="SVG file to write.")],
) -> None:
    """Draw the CPU per decision of every server and scenario."""
    from bench.plot import draw

    out.write_text(draw(msgspec.json.decode(results.read_bytes(), type=Results)), encoding="utf-8")


@app.command()
def smoke() -> None:
    """Compare the enforcer's CPU per decision with the empty handler's; exit 1 when it costs too many times that."""
    from bench.smoke import run_smoke

    if not run_smoke(say):
        raise typer.Exit(EXIT_FAILED)


if __name__ == "__main__":
    app()
