"""All scenarios on all servers, in rounds: each round measures everything once, so that noise falls on all alike."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import scenarios
from bench.generator import Load
from bench.measure import Measurement, Target, measure
from bench.methods import Method
from bench.processes import read_usage
from bench.scenarios import Scenario
from bench.servers import ROOT, Serving, run_enforcer, run_floor
from bench.tables import Results, Row
from devstack.stack import StackSpec, start

Tell = Callable[[str], None]

FULL = "ratchet, native"
_WARM_UP_S = 2.0
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that somebody else started: measured like ours, never named or started by this project."""

    name: str
    address: str
    pid: int
    methods: Path | None = None
    """JSON file of a ``Method`` for each scenario that it can do, where it does not speak Envoy's protocol."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Redis and Kafka that run, for ours and for peers."""

    redis_url: str
    kafka_bootstrap: str
    kafka_pid: int


@contextlib.contextmanager
def run_parts() -> Iterator[Parts]:
    """Run Redis and Kafka while the block runs.

    Raises:
        DevstackError: They could not start.
    """
    with start(StackSpec(parts=frozenset({"redis", "kafka"}))) as stack:
        pid = next(state.pid for state in stack.states() if state.name.startswith("kafka") and state.pid is not None)
        yield Parts(stack.redis_url, stack.kafka_bootstrap, pid)


def run_all(rounds: int, duration_s: float, parts: Parts, peers: list[Peer], tell: Tell) -> Results:
    """Measure everything.

    Args:
        rounds: How often; the table has the medians.
        duration_s: Length of one run; there are some 20 in a round.
        parts: Redis and Kafka; a peer that needs a Redis should use this one too.
        peers: Servers of others.
        tell: Told each result as it comes.

    Raises:
        GeneratorError: A load was not as it should be; nothing of the suite is kept.
        psutil.NoSuchProcess: A peer does not run; nothing of the suite is kept.
    """
    found: dict[tuple[str, str], list[Measurement]] = {}

    def take(server: str, target: Target, scenario: Scenario) -> Measurement:
        seen = measure(target, scenario.method, _with_fresh_users(scenario.load), bound=scenario.bound)
        found.setdefault((server, scenario.name), []).append(seen)
        tell(
            f"{server:26} {scenario.name:18} {seen.decisions_per_s:8,.0f}/s  server {seen.server_cpu_us:6.1f} us"
            f"  p99 {seen.seen.latency.p99_us / 1e3:6.1f} ms  busy {seen.server_busy:.2f}  failed {seen.failed}"
        )
        return seen

    for peer in peers:
        read_usage(peer.pid)  # before minutes are spent
    rls, checks = scenarios.over_rls(duration_s), scenarios.over_checks(duration_s)
    for _ in range(rounds):
        for transport in ("native", "front", "grpcio"):
            with run_floor(transport) as serving:
                take(f"empty handler, {transport}", _warm(Target(serving.address, serving.pid), rls[0]), rls[0])
        with run_enforcer(parts.redis_url, parts.kafka_bootstrap) as serving:
            target = _warm(_target(serving, parts), rls[0])
            peak = take(FULL, target, rls[0])
            for scenario in (*rls[1:], *checks, scenarios.at_rate(duration_s, peak.decisions_per_s / 2)):
                take(FULL, target, scenario)
        with run_enforcer(parts.redis_url, None) as serving:
            target = Target(serving.address, serving.pid, parts.redis_url)
            take("ratchet, native, no Kafka", _warm(target, rls[0]), rls[0])
        with run_enforcer(parts.redis_url, parts.kafka_bootstrap, "grpcio") as serving:
            take("ratchet, grpcio", _warm(_target(serving, parts), rls[0]), rls[0])
        for peer in peers:
            target = Target(peer.address, peer.pid, parts.redis_url)
            mine = _for_peer(peer, (*rls, *checks))
            _warm(target, mine[0])
            for scenario in mine:
                take(peer.name, target, scenario)
    with run_enforcer(parts.redis_url, parts.kafka_bootstrap) as serving:
        take(FULL, _warm(_target(serving, parts), rls[0]), scenarios.with_users(_MILLION))
    tell(audit(parts.kafka_bootstrap))
    rows = tuple(Row(server, scenario, tuple(runs)) for (server, scenario), runs in found.items())
    return Results(describe_machine(), rows)


def run_soak(duration_s: float, tell: Tell) -> Measurement:
    """Measure the peak, then half of it for a long time, in ten windows.

    Raises:
        GeneratorError: The load was not as it should be.
    """
    first = scenarios.over_rls(8.0)[0]
    with run_parts() as parts:
        with run_enforcer(parts.redis_url, parts.kafka_bootstrap) as serving:
            target = _warm(_target(serving, parts), first)
            peak = measure(target, first.method, _with_fresh_users(first.load)).decisions_per_s
            tell(f"peak {peak:,.0f}/s")
            scenario = scenarios.at_rate(duration_s, peak / 2)
            load = msgspec.structs.replace(_with_fresh_users(scenario.load), window_s=duration_s / 10)
            seen = measure(target, scenario.method, load)
        for window in seen.seen.windows:
            latency = window.latency
            tell(
                f"until {window.end_s:7.1f} s: {window.calls:10,} calls  p50 {latency.p50_us / 1e3:.2f} ms"
                f"  p99 {latency.p99_us / 1e3:.2f} ms  p99.9 {latency.p999_us / 1e3:.2f} ms"
            )
        tell(audit(parts.kafka_bootstrap))
    return seen


def audit(kafka_bootstrap: str) -> str:
    """Prove that every decision is in the topic; return what the proof says, its exit code first."""
    done = subprocess.run(  # noqa: S603 our own module
        [sys.executable, "-m", "topics", "audit", "decisions", "--bootstrap", kafka_bootstrap],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"audit: exit {done.returncode}\n{done.stdout.strip() or done.stderr.strip()}"


def describe_machine() -> str:
    """Return what the figures depend on: cores, system, Python."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    release = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores of {model}, {platform.system()} {release}, Python {platform.python_version()}"


def _target(serving: Serving, parts: Parts) -> Target:
    return Target(serving.address, serving.pid, parts.redis_url, parts.kafka_pid)


def _with_fresh_users(load: Load) -> Load:
    return msgspec.structs.replace(load, first_user=scenarios.choose_users())


def _warm(target: Target, scenario: Scenario) -> Target:
    """Connections, caches, Kafka's producer: what comes once is not measured."""
    measure(target, scenario.method, msgspec.structs.replace(_with_fresh_users(scenario.load), duration_s=_WARM_UP_S))
    return target


def _for_peer(peer: Peer, known: tuple[Scenario, ...]) -> list[Scenario]:
    if peer.methods is None:
        return [one for one in known if one.method.path.startswith("/envoy.")]
    methods = msgspec.json.decode(peer.methods.read_bytes(), type=dict[str, Method])
    return [Scenario(one.name, methods[one.name], one.load, one.bound) for one in known if one.name in methods]
