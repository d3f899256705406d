"""Redis is away, stalls, dies or forgets: the enforcer goes on deciding, says so, and is exact again by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis import Redis

from devstack.stack import RunningStack, StackSpec, start
from lua.keys import name_abuse, name_bucket
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, poll, run_enforcer
from topics.events import AbuseState, Ban

ALLOW, DENY, BAN = enforcer_pb2.OUTCOME_ALLOW, enforcer_pb2.OUTCOME_DENY, enforcer_pb2.OUTCOME_BAN
STALL_S = 1.5
"""Longer than the enforcer's own patience with a silent server."""


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with start(StackSpec(parts=frozenset({"redis"}))) as running:
        yield running


@pytest.fixture(scope="module")
def enforcer(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    """Started while Redis is away, and used by all tests in turn: each leaves Redis running."""
    stack.kill("redis")
    with run_enforcer(stack.redis_url, NOWHERE, tmp_path_factory.mktemp("enforcer"), "--redis-timeout-ms", "50") as one:
        yield one


@pytest.fixture
def redis(stack: RunningStack) -> Iterator[Redis]:
    with Redis.from_url(stack.redis_url, decode_responses=True) as client:
        yield client


def take(enforcer: EnforcerProcess, user: str, times: int) -> list[int]:
    return [enforcer.check(user).outcome for _ in range(times)]


def wait_until_exact(enforcer: EnforcerProcess, user: str) -> None:
    """Answers come from Redis again; reads only."""
    poll(lambda: not enforcer.check(user, cost=0).degraded, "an exact answer")


def test_start_without_redis_decides_degraded_and_recovers_by_itself(stack: RunningStack, enforcer: EnforcerProcess) -> None:
    answer = enforcer.check("early")
    assert (answer.outcome, answer.degraded, answer.limits[0].capacity) == (ALLOW, True, 2)
    assert take(enforcer, "early", 3) == [ALLOW, DENY, DENY]
    assert enforcer.check("early", "shared").outcome == DENY
    assert enforcer.check("early", "other").outcome == ALLOW
    status, body = enforcer.get("/readyz")
    assert (status, '"redis": false' in body) == (503, True)
    assert enforcer.get("/healthz")[0] == 200
    assert enforcer.wait_for_line("redis_unreachable")["answers"] == "without Redis"
    stack.restart("redis")
    enforcer.wait_for_redis()
    answer = enforcer.check("early")
    assert (answer.outcome, answer.degraded, answer.limits[0].capacity, answer.limits[0].remaining) == (ALLOW, False, 5, 4)


def test_stalled_redis_is_waited_for_briefly_and_spends_nothing_for_those_who_left(
    stack: RunningStack, enforcer: EnforcerProcess, redis: Redis
) -> None:
    wait_until_exact(enforcer, "stalled")
    poll(lambda: enforcer.read_metric("ratchet_enforcers") == 1, "that Redis has seen one enforcer alive")
    assert not enforcer.check("stalled").degraded
    key = name_bucket("user=stalled", "login", "per_user")
    before = redis.get(key)
    stack.pause("redis")
    try:
        began_s = time.monotonic()
        answers = [enforcer.check("stalled") for _ in range(6)]
        # Only the first waits; a second is far above what it may and far below the stall.
        assert time.monotonic() - began_s < STALL_S
        # It was the one enforcer that Redis had seen alive: the whole limit is its share.
        assert [(answer.outcome, answer.degraded) for answer in answers] == [(ALLOW, True)] * 5 + [(DENY, True)]
        assert enforcer.get("/readyz")[0] == 503
        poll(lambda: time.monotonic() - began_s > STALL_S, "the end of the stall")
    finally:
        stack.resume("redis")
    wait_until_exact(enforcer, "stalled")
    assert redis.get(key) == before
    assert take(enforcer, "stalled", 5) == [ALLOW] * 4 + [DENY]


def test_short_stall_is_survived_on_the_same_connection(stack: RunningStack, enforcer: EnforcerProcess, redis: Redis) -> None:
    wait_until_exact(enforcer, "short")
    enforcer.check("short")
    key = name_bucket("user=short", "login", "per_user")
    before, late, made = (
        redis.get(key),
        *map(enforcer.read_metric, ("ratchet_redis_late_total", "ratchet_redis_connections_total")),
    )
    stack.pause("redis")
    try:
        assert enforcer.check("short").degraded
    finally:
        stack.resume("redis")
    wait_until_exact(enforcer, "short")
    assert redis.get(key) == before
    assert enforcer.read_metric("ratchet_redis_connections_total") == made
    assert enforcer.read_metric("ratchet_redis_late_total") == late + 1


def test_killed_redis_is_found_again_and_its_script_loaded_anew(stack: RunningStack, enforcer: EnforcerProcess) -> None:
    wait_until_exact(enforcer, "killed")
    assert take(enforcer, "killed", 5) == [ALLOW] * 5
    stack.kill("redis")
    enforcer.wait_for_redis(is_there=False)
    assert enforcer.check("killed").degraded
    stack.restart("redis")
    enforcer.wait_for_redis()
    answer = enforcer.check("killed")
    assert (answer.outcome, answer.degraded) == (ALLOW, False)


def test_script_that_is_flushed_under_load_is_loaded_again_and_spends_once(
    stack: RunningStack, enforcer: EnforcerProcess, redis: Redis
) -> None:
    wait_until_exact(enforcer, "flushed")
    loads = enforcer.read_metric("ratchet_script_loads_total")
    checks = [enforcer_pb2.CheckRequest(user_id="flushed", action="other") for _ in range(10)]
    answers: list[enforcer_pb2.CheckResponse] = []
    for _ in range(6):
        call = enforcer.stub.CheckBatch.future(enforcer_pb2.CheckBatchRequest(checks=checks), timeout=30)
        redis.script_flush()
        answers += call.result().results
    assert all(answer.outcome == ALLOW and not answer.degraded for answer in answers)
    # The bucket refills quickly: what was admitted together is compared with what is left after each call.
    for call_number in range(6):
        remaining = [answer.limits[0].remaining for answer in answers[call_number * 10 :][:10]]
        assert remaining == list(range(remaining[0], remaining[0] - 10, -1))
    assert loads < enforcer.read_metric("ratchet_script_loads_total") <= loads + 12


def test_ban_known_before_stays_in_force_while_redis_is_away(
    stack: RunningStack, enforcer: EnforcerProcess, redis: Redis
) -> None:
    wait_until_exact(enforcer, "banned")
    until_ms = int(redis.time()[0]) * 1000 + 120_000
    ban = Ban(until_ms=until_ms, level=1, rule="brute_force", verdict_id="v1", scope=("login",))
    redis.set(name_abuse("user=banned"), AbuseState(rev=1, bans=(ban,)).model_dump_json())
    assert enforcer.check("banned").outcome == BAN
    stack.kill("redis")
    enforcer.wait_for_redis(is_there=False)

    def is_from_memory() -> bool:
        answer = enforcer.check("banned")
        assert (answer.outcome, answer.ban.until_ms) == (BAN, until_ms)
        return answer.degraded

    poll(is_from_memory, "the ban from the memory that outlives Redis")
    assert enforcer.check("banned", "other").outcome == ALLOW
    stack.restart("redis")
    enforcer.wait_for_redis()
