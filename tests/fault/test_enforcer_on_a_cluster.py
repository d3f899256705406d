"""A master of a Redis Cluster stalls or dies: its slots are decided without it, others exactly, until another takes over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devstack.stack import RunningStack, StackSpec, start
from lua.keys import SLOTS, find_slot, name_abuse
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, poll, run_enforcer

ALLOW, DENY = enforcer_pb2.OUTCOME_ALLOW, enforcer_pb2.OUTCOME_DENY
MASTERS = 3


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with start(StackSpec(parts=frozenset(), cluster=True, cluster_replicas=True)) as running:
        yield running


@pytest.fixture(scope="module")
def enforcer(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    folder = tmp_path_factory.mktemp("enforcer")
    with run_enforcer(stack.addresses.cluster_url, NOWHERE, folder, "--redis-timeout-ms", "50") as one:
        one.wait_for_redis()
        yield one


def name_user(master: int, prefix: str) -> str:
    """A user whose slot the master had at the start; masters are numbered from 1."""
    names = (f"{prefix}-{number}" for number in range(1000))
    return next(name for name in names if find_slot(name_abuse(f"user={name}")) * MASTERS // SLOTS == master - 1)


def is_exact(enforcer: EnforcerProcess, user: str) -> bool:
    return not enforcer.check(user, cost=0).degraded


def test_stalled_master_is_waited_for_briefly_and_others_go_on(stack: RunningStack, enforcer: EnforcerProcess) -> None:
    there, away = name_user(1, "stalled"), name_user(2, "stalled")
    poll(lambda: is_exact(enforcer, there) and is_exact(enforcer, away), "exact answers")
    stack.pause("redis-cluster-2")
    try:
        answers = [enforcer.check(away) for _ in range(3)]
        assert [(answer.outcome, answer.degraded) for answer in answers] == [(ALLOW, True)] * 3
        assert is_exact(enforcer, there)
        assert enforcer.get("/readyz")[0] == 503
    finally:
        stack.resume("redis-cluster-2")
    poll(lambda: is_exact(enforcer, away), "an exact answer of the one that stalled")
    remaining = enforcer.check(away).limits[0].remaining
    assert remaining == 4, "what the stalled master still had to do took nothing for those who had left"


def test_killed_master_is_replaced_by_its_replica_without_a_manual_step(stack: RunningStack, enforcer: EnforcerProcess) -> None:
    there, away = name_user(1, "killed"), name_user(3, "killed")
    poll(lambda: is_exact(enforcer, there) and is_exact(enforcer, away), "exact answers")
    assert enforcer.check(away).limits[0].remaining == 4
    stack.kill("redis-cluster-3")
    enforcer.wait_for_redis(is_there=False)
    assert enforcer.check(away).degraded
    assert [enforcer.check(there).outcome for _ in range(6)] == [ALLOW] * 5 + [DENY]
    assert is_exact(enforcer, there)
    poll(lambda: is_exact(enforcer, away), "an exact answer of the replica")
    enforcer.wait_for_redis()
    assert enforcer.check(away).limits[0].remaining == 3, "the replica had the bucket"
    stack.restart("redis-cluster-3")
    assert is_exact(enforcer, away)
    assert is_exact(enforcer, there)
