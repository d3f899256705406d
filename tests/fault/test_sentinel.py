"""The master dies or is demoted: sentinels name another, and everything that uses Redis follows by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest
from redis import Redis
from redis.exceptions import RedisError

from devstack.ports import LOOPBACK
from devstack.redis_server import MASTER
from devstack.stack import RunningStack, StackSpec, start
from lua.address import open_client
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, poll, run_enforcer

ALLOW, DENY = enforcer_pb2.OUTCOME_ALLOW, enforcer_pb2.OUTCOME_DENY


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with start(StackSpec(parts=frozenset({"redis"}), replica=True, sentinels=3)) as running:
        yield running


@pytest.fixture(scope="module")
def enforcer(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    folder = tmp_path_factory.mktemp("enforcer")
    with run_enforcer(stack.addresses.sentinel_url, NOWHERE, folder, "--redis-timeout-ms", "50") as one:
        yield one


@pytest.fixture
def sentinel(stack: RunningStack) -> Iterator[Redis]:
    with Redis(host=LOOPBACK, port=stack.addresses.sentinel_ports[0], decode_responses=True) as client:
        yield client


def take_all(enforcer: EnforcerProcess, user: str) -> list[tuple[int, bool]]:
    answers = [enforcer.check(user) for _ in range(7)]
    return [(answer.outcome, answer.degraded) for answer in answers]


EXACT = [(ALLOW, False)] * 5 + [(DENY, False)] * 2


def wait_until_exact(enforcer: EnforcerProcess) -> None:
    poll(lambda: not enforcer.check("anybody", cost=0).degraded, "an exact answer")


def read_master_port(sentinel: Redis) -> int:
    state = sentinel.sentinel_master(MASTER)
    assert isinstance(state, dict)
    return int(state["port"])


def test_master_that_is_killed_is_replaced_and_decisions_are_exact_again(
    stack: RunningStack, enforcer: EnforcerProcess, sentinel: Redis
) -> None:
    wait_until_exact(enforcer)
    assert read_master_port(sentinel) == stack.addresses.redis_port
    assert take_all(enforcer, "before") == EXACT
    stack.kill("redis")
    assert enforcer.check("during").outcome == ALLOW
    enforcer.wait_for_redis(is_there=False)
    assert enforcer.check("during").degraded
    enforcer.wait_for_redis()
    assert read_master_port(sentinel) == stack.addresses.replica_port
    assert take_all(enforcer, "after") == EXACT
    with Redis(host=LOOPBACK, port=stack.addresses.replica_port or 0) as replica:
        names = {client["name"] for client in replica.client_list()}
    assert "ratchet-enforcer" in names


def test_master_that_comes_back_is_not_taken_for_the_master(
    stack: RunningStack, enforcer: EnforcerProcess, sentinel: Redis
) -> None:
    stack.restart("redis")

    def is_replica_again() -> bool:
        with Redis(host=LOOPBACK, port=stack.addresses.redis_port or 0) as client:
            replication = client.info("replication")
            return (replication["role"], replication.get("master_link_status")) == ("slave", "up")

    poll(is_replica_again, "the old master as a replica")
    assert read_master_port(sentinel) == stack.addresses.replica_port
    assert take_all(enforcer, "returned") == EXACT


async def test_master_that_is_demoted_is_left(stack: RunningStack, enforcer: EnforcerProcess, sentinel: Redis) -> None:
    def is_begun() -> bool:
        try:
            return bool(sentinel.sentinel_failover(MASTER))
        except RedisError:  # no replica that is good enough, yet
            return False

    poll(is_begun, "the start of the failover")
    poll(lambda: read_master_port(sentinel) == stack.addresses.redis_port, "the failover")
    wait_until_exact(enforcer)
    users = count()
    poll(lambda: take_all(enforcer, f"demoted-{next(users)}") == EXACT, "exact decisions")
    async with open_client(stack.addresses.sentinel_url) as client:  # as the detector and the changes do
        assert (await client.info("replication"))["role"] == "master"


async def test_client_that_is_open_follows_too(stack: RunningStack, sentinel: Redis) -> None:
    async with open_client(stack.addresses.sentinel_url, socket_timeout=1.0) as client:
        old_port = read_master_port(sentinel)
        await client.set("seen", "before")
        stack.kill("redis" if old_port == stack.addresses.redis_port else "redis-replica")

        async def is_written() -> bool:
            with suppress(RedisError, OSError):
                return bool(await client.set("seen", "after"))
            return False

        async with asyncio.timeout(20):
            while not await is_written():  # noqa: ASYNC110 what is waited for tells nobody
                await asyncio.sleep(0.05)
    assert read_master_port(sentinel) != old_port
