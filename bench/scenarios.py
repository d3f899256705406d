"""What is measured: who asks for what, how often. The policies are ``policies/bench.yaml``."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.generator import Load
from bench.measure import Bound
from bench.methods import Method, check, check_batch, should_rate_limit

ALLOWED, REFUSED, THREE, CHECK, BATCH = "allowed", "90 % refused", "three limits", "Check", "CheckBatch of 100"
HALF_RATE, MILLION = "half rate", "1 M users"

CHECKS_PER_BATCH = 100
ABUSERS = 100
TIGHT = Bound(capacity=5, refill_per_s=1.0)
"""Terms of ``bench_tight``."""

_USERS_PER_RUN = 4_000_000
"""More than any run asks for, so that no run finds another's buckets."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table."""

    name: str
    method: Method
    load: Load
    bound: Bound | None = None


def over_rls(duration_s: float) -> tuple[Scenario, ...]:
    """Envoy's protocol: what any server that speaks it can be asked, given the same domains and keys."""
    one, three = [["user_id"]], [["user_id"], ["device"], ["session"]]
    abused = Load(duration_s=duration_s, abusers=ABUSERS, abuser_share_per_mille=900)
    return (
        Scenario(ALLOWED, should_rate_limit("bench_open", one), Load(duration_s=duration_s)),
        Scenario(REFUSED, should_rate_limit("bench_tight", one), abused, TIGHT),
        Scenario(THREE, should_rate_limit("bench_three", three), Load(duration_s=duration_s)),
    )


def over_checks(duration_s: float) -> tuple[Scenario, ...]:
    """Our own protocol."""
    # Fewer calls under way: each is a hundred decisions.
    batches = Load(duration_s=duration_s, connections=2, streams=2)
    return (
        Scenario(CHECK, check("bench_open"), Load(duration_s=duration_s)),
        Scenario(BATCH, check_batch("bench_open", CHECKS_PER_BATCH), batches),
    )


def at_rate(duration_s: float, rate_per_s: float) -> Scenario:
    """The open loop: latency while calls come at a fixed rate."""
    load = Load(duration_s=duration_s, rate_per_s=rate_per_s, streams=250)
    return Scenario(HALF_RATE, should_rate_limit("bench_open", [["user_id"]]), load)


def with_users(calls: int) -> Scenario:
    """So many users, each once: memory of the server and of Redis."""
    load = Load(duration_s=0, calls=calls, users=calls)
    return Scenario(MILLION, should_rate_limit("bench_open", [["user_id"]]), load)


def choose_users() -> int:
    """Return the first user of a run; no other run of this machine in the last years had users from there on."""
    return int(time.time() * 10) * _USERS_PER_RUN % 2**61
