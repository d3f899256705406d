"""One measurement: a load against a server, and what it cost each process."""

from __future__ import annotations

import contextlib
import math
import resource
from dataclasses import dataclass

import msgspec
import redis

from bench import generator
from bench.generator import Load, LoadReport
from bench.methods import Method
from bench.processes import Usage, pin, read_usage


@dataclass(frozen=True, slots=True)
class Target:
    """A server under test and the processes behind it."""

    address: str
    server_pid: int
    redis_url: str | None = None
    """The Redis that it uses; its process id is asked from itself."""
    kafka_pid: int | None = None
    server_cpus: frozenset[int] = frozenset({0})
    load_cpus: frozenset[int] = frozenset({1})
    """Where load, Redis and Kafka run."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Terms of the limit that abusers run into, to judge how many of their requests were admitted."""

    capacity: int
    refill_per_s: float


class Measurement(msgspec.Struct, frozen=True):
    """What one run gave. CPU is of whole process trees, in microseconds per decision; None where no pid was given."""

    load: Load
    seen: LoadReport
    decisions_per_s: float
    server_cpu_us: float
    redis_cpu_us: float | None
    kafka_cpu_us: float | None
    load_cpu_us: float
    """Of the generator: with those of Redis and Kafka it says how far the other core was used."""
    server_busy: float
    """CPU seconds of the server per second: near 1 on one core, the server is what limits the throughput."""
    redis_script_calls: float | None
    """Calls of scripts (EVALSHA and FCALL) per decision."""
    redis_commands: float | None
    """Commands that clients sent or scripts ran, per decision."""
    redis_new_keys: int | None
    redis_new_bytes: int | None
    """By how much Redis's own count of memory grew."""
    server_rss_start_bytes: int
    server_rss_end_bytes: int
    over_admitted: int | None
    """Most that one abuser was admitted above capacity + refill * t. 0 is exact; None without abusers or bound."""

    @property
    def failed(self) -> int:
        """Decisions that are no decisions: errors, unknown outcomes, answers without Redis, no answer."""
        return sum(self.seen.errors.values()) + self.seen.other + self.seen.degraded + self.seen.unanswered


@dataclass(frozen=True, slots=True)
class RedisUsage:
    """What Redis says of itself, since its start."""

    cpu_s: float
    script_calls: int
    commands: int
    keys: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Every counter at one moment."""

    server: Usage
    kafka: Usage | None
    redis: RedisUsage | None
    load_cpu_s: float
    """Of all generators that have run."""


def measure(target: Target, method: Method, load: Load, *, bound: Bound | None = None) -> Measurement:
    """Run a load and read every counter around it. Pins the server and what is behind it.

    Counters are read just before the generator starts and just after it ends, so its connecting is within, which is
    little beside seconds of load. Kafka may still work on the last records then.

    Raises:
        GeneratorError: The load was not as it should be. Throw the run away.
        psutil.NoSuchProcess: The server or Kafka has ended. Throw the run away.
        redis.RedisError: Redis does not answer. Throw the run away.
    """
    generator.build()  # not while the counters run
    pin(target.server_pid, target.server_cpus)
    if target.kafka_pid is not None:
        pin(target.kafka_pid, target.load_cpus)
    with contextlib.ExitStack() as exits:
        client = None
        if target.redis_url is not None:
            client = exits.enter_context(redis.Redis.from_url(target.redis_url))
            pin(int(client.info("server")["process_id"]), target.load_cpus)
        before = _read_counters(target, client)
        seen = generator.run(method, load, address=target.address, cpus=target.load_cpus)
        after = _read_counters(target, client)
    return compare(before, after, load, seen, bound)


def compare(before: Counters, after: Counters, load: Load, seen: LoadReport, bound: Bound | None) -> Measurement:
    """Turn two readings of the counters and what the load saw between them into figures per decision."""
    decisions = max(1, seen.decisions)
    server_cpu_s = after.server.cpu_s - before.server.cpu_s
    redis_cpu_us = script_calls = commands = new_keys = new_bytes = kafka_cpu_us = None
    if before.redis is not None and after.redis is not None:
        redis_cpu_us = (after.redis.cpu_s - before.redis.cpu_s) / decisions * 1e6
        script_calls = (after.redis.script_calls - before.redis.script_calls) / decisions
        commands = (after.redis.commands - before.redis.commands) / decisions
        new_keys = after.redis.keys - before.redis.keys
        new_bytes = after.redis.used_bytes - before.redis.used_bytes
    if before.kafka is not None and after.kafka is not None:
        kafka_cpu_us = (after.kafka.cpu_s - before.kafka.cpu_s) / decisions * 1e6
    return Measurement(
        load=load,
        seen=seen,
        decisions_per_s=seen.decisions / seen.elapsed_s,
        server_cpu_us=server_cpu_s / decisions * 1e6,
        redis_cpu_us=redis_cpu_us,
        kafka_cpu_us=kafka_cpu_us,
        load_cpu_us=(after.load_cpu_s - before.load_cpu_s) / decisions * 1e6,
        server_busy=server_cpu_s / seen.elapsed_s,
        redis_script_calls=script_calls,
        redis_commands=commands,
        redis_new_keys=new_keys,
        redis_new_bytes=new_bytes,
        server_rss_start_bytes=before.server.rss_bytes,
        server_rss_end_bytes=after.server.rss_bytes,
        over_admitted=judge_abusers(seen, bound),
    )


def judge_abusers(seen: LoadReport, bound: Bound | None) -> int | None:
    """Return the most that one abuser was admitted above its bound, at least 0; None when there is nothing to judge.

    The time includes the generator's wait for the last answers, so what is called exact is so within a refill of that.
    """
    if bound is None or not seen.abuser_ok:
        return None
    most = math.floor(bound.capacity + bound.refill_per_s * seen.elapsed_s)
    return max(0, max(seen.abuser_ok) - most)


def _read_counters(target: Target, client: redis.Redis | None) -> Counters:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Counters(
        server=read_usage(target.server_pid),
        kafka=None if target.kafka_pid is None else read_usage(target.kafka_pid),
        redis=None if client is None else _read_redis(client),
        load_cpu_s=ended.ru_utime + ended.ru_stime,
    )


def _read_redis(client: redis.Redis) -> RedisUsage:
    used = client.info("cpu")
    commands = client.info("commandstats")
    scripts = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")
    return RedisUsage(
        cpu_s=float(used["used_cpu_user"]) + float(used["used_cpu_sys"]),
        script_calls=sum(int(commands[name]["calls"]) for name in scripts if name in commands),
        commands=sum(int(entry["calls"]) for entry in commands.values()),
        keys=int(client.dbsize()),
        used_bytes=int(client.info("memory")["used_memory"]),
    )
