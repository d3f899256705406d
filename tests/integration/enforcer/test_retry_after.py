"""Waiting out ``retry_after`` suffices, and a millisecond less does not: on the real script, in its own time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from redis import Redis

from enforcer.decisions.decision import Decision, decide
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import UNLOWERED
from enforcer.stores.store import read_result
from lua.scripts import CHECK
from tests.integration.enforcer.script_call import ScriptCheck, pack
from tests.unit.enforcer.builders import make_check, make_policies

START_US = 1_700_000_000_123_456
DAY_US = 86_400_000_000
MS_US = 1000


class LimitOf(NamedTuple):
    capacity: int
    refill: int
    period: str
    is_shadow: bool


limits = st.builds(
    LimitOf,
    st.integers(1, 12),
    st.integers(1, 50),
    st.sampled_from(["7us", "333us", "1ms", "10ms", "1s", "7s", "1m", "1h", "3650d"]),  # the last in ticks of a millisecond
    st.just(False),
) | st.builds(LimitOf, st.just(3), st.just(1), st.just("1h"), st.just(True))
steps = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(1, 5_000), st.integers(0, 30_000_000), st.integers(0, 40 * DAY_US)),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=8,
)


def make_planner(limits: list[LimitOf]) -> Planner:
    lines = [
        f"      - {{ name: l{number}, per: [user], capacity: {one.capacity}, refill: {one.refill}/{one.period},"
        f" mode: {'shadow' if one.is_shadow else 'enforce'} }}"
        for number, one in enumerate(limits)
    ]
    head = 'version: 1\nsubjects: [user]\npolicies:\n  - name: default\n    match: { action: "*" }\n    limits:\n'
    return Planner(make_policies(head + "\n".join(lines) + "\n"))


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        client.script_load(CHECK.source)
        yield client


def ask(client: Redis, plan: Plan, now_us: int, factor: int) -> Decision:
    terms = tuple(limit.terms for limit in plan.limits)
    shadows = tuple(limit.is_shadow for limit in plan.limits)
    keys, argv = pack([ScriptCheck(plan.bucket_keys, terms, plan.check.cost, factor, shadows)], now_us)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.evalsha(CHECK.sha, len(keys), *keys, *argv)
        for key in keys:
            pipeline.persist(key)  # the server's clock runs on while the steps' does not
        (_, result), *_ = pipeline.execute()
    values: list[Any] = result
    reading = read_result(plan, values, now_us, 0.0)
    assert reading is not None
    return decide(plan, reading)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(limits, min_size=1, max_size=3), steps=steps)
def test_retry_after_is_sufficient_and_tight(client: Redis, limits: list[LimitOf], steps: list[tuple[int, int]]) -> None:
    client.flushdb()
    planner, now_us = make_planner(limits), START_US
    most = min((limit.capacity for limit in limits if not limit.is_shadow), default=12)
    for later_us, cost in steps:
        now_us += later_us
        plan = planner.plan(make_check(cost=min(cost, most)))
        decision = ask(client, plan, now_us, UNLOWERED)
        if decision.outcome == "allow":
            assert decision.retry_after_ms == 0
            continue
        assert decision.retry_after_ms > 0
        assert ask(client, plan, now_us + (decision.retry_after_ms - 1) * MS_US, UNLOWERED).outcome == "deny"
        now_us += decision.retry_after_ms * MS_US
        assert ask(client, plan, now_us, UNLOWERED).outcome == "allow"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(limits, min_size=1, max_size=3), steps=steps, factor=st.integers(1, UNLOWERED - 1))
def test_retry_after_is_sufficient_while_a_factor_is_in_force(
    client: Redis, limits: list[LimitOf], steps: list[tuple[int, int]], factor: int
) -> None:
    """It may be longer than needed then: by less than a tick divided by the factor, and by what the remainder held."""
    client.flushdb()
    planner, now_us = make_planner(limits), START_US
    enforced = [limit.capacity for limit in limits if not limit.is_shadow]
    assume(enforced)
    for later_us, cost in steps:
        now_us += later_us
        plan = planner.plan(make_check(cost=min(cost, *enforced)))
        decision = ask(client, plan, now_us, factor)
        if decision.outcome == "deny":
            now_us += decision.retry_after_ms * MS_US
            assert ask(client, plan, now_us, factor).outcome == "allow"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(limits, min_size=1, max_size=3), steps=steps)
def test_reset_after_leaves_every_bucket_full(client: Redis, limits: list[LimitOf], steps: list[tuple[int, int]]) -> None:
    client.flushdb()
    planner, now_us = make_planner(limits), START_US
    most = min(limit.capacity for limit in limits)
    for later_us, cost in steps:
        now_us += later_us
        ask(client, planner.plan(make_check(cost=min(cost, most))), now_us, UNLOWERED)
    peek = planner.plan(make_check(cost=0))
    for status in ask(client, peek, now_us, UNLOWERED).limits:
        full_us = now_us + status.reset_after_ms * MS_US
        found = ask(client, peek, full_us, UNLOWERED).limits[status.position]
        assert (found.remaining, found.reset_after_ms) == (found.capacity, 0)
        if status.reset_after_ms:
            found = ask(client, peek, full_us - MS_US, UNLOWERED).limits[status.position]
            assert found.reset_after_ms == 1
