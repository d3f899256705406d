"""The store of a Redis Cluster, on a real one of three masters and their replicas."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot

from devstack.ports import LOOPBACK
from devstack.stack import RunningStack
from enforcer.decisions.decision import Reading
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import Status
from enforcer.stores.cluster_store import ClusterStore
from lua.keys import name_abuse
from tests.integration.enforcer.test_store import take, until
from tests.unit.enforcer.builders import make_check, make_policies
from topics.events import AbuseState

TOKEN = 60_000_000
POLICIES = """
version: 1
subjects: [user, ip]
policies:
  - name: login
    match: { action: login }
    limits:
      - { name: per_ip, per: [ip], capacity: 8, refill: 8/1m }
      - { name: per_user, per: [user], capacity: 5, refill: 5/1m }
      - { name: trial, per: [ip], capacity: 2, refill: 2/1m, mode: shadow }
  - name: shared
    match: { action: shared }
    limits:
      - { name: everybody, per: [], capacity: 100, refill: 1/1d }
      - { name: per_user, per: [user], capacity: 5, refill: 1/1d }
  - name: default
    match: { action: "*" }
    limits:
      - { name: per_user, per: [user], capacity: 5, refill: 5/1m }
"""
DAY = 86_400_000_000
"""Units of a token of the shared limits: in a test's time none is refilled."""
PLANNER = Planner(make_policies(POLICIES))


@pytest.fixture
async def store(redis_cluster: RunningStack, cluster_client: RedisCluster) -> AsyncIterator[ClusterStore]:
    one = ClusterStore(redis_cluster.addresses.cluster_url, timeout_s=5.0)
    one.start()
    await until(lambda: one.is_available)
    yield one
    await one.close()


def plan(user: str = "alice", ip: str | None = None, action: str = "login", cost: int = 1) -> Plan:
    return PLANNER.plan(make_check(user, action, cost, {"ip": ip} if ip else {}))


def find_pair(*, is_ip_first: bool) -> tuple[str, str]:
    """A user and an ip in slots of this order."""
    ip_slot = key_slot(b"ip=203.0.113.7")
    user = next(f"u{n}" for n in range(1000) if (key_slot(f"user=u{n}".encode()) > ip_slot) == is_ip_first)
    return user, "203.0.113.7"


async def take_one(store: ClusterStore, plan: Plan) -> Reading:
    (reading,) = await take(store, plan)
    assert reading is not None
    return reading


def tokens(reading: Reading) -> list[int]:
    return [level // TOKEN for level in reading.levels]


async def test_checks_of_many_slots_are_answered_each_from_its_bucket(store: ClusterStore) -> None:
    plans = [plan(f"user-{number % 50}", action="other") for number in range(300)]
    readings = await take(store, *plans)
    assert [reading and tokens(reading) for reading in readings[:250]] == [[4 - number // 50] for number in range(250)]
    assert [reading and reading.status for reading in readings[250:]] == [Status.LIMIT] * 50
    assert (store.stats.calls, store.stats.checks) == (50, 300)


@pytest.mark.parametrize("is_ip_first", [True, False])
async def test_check_over_two_slots_takes_from_both_or_from_none(store: ClusterStore, *, is_ip_first: bool) -> None:
    user, ip = find_pair(is_ip_first=is_ip_first)
    for left in (4, 3, 2, 1, 0):
        reading = await take_one(store, plan(user, ip))
        assert (reading.status, tokens(reading)) == (Status.ALLOW, [left + 3, left, max(0, left - 3)])
    refused = await take_one(store, plan(user, ip))
    assert (refused.status, refused.refused, refused.refused_at_1) == (Status.LIMIT, 0b110, 0b110)
    assert tokens(refused)[1:] == [0, 0]
    assert tokens(await take_one(store, plan(user, ip, cost=0))) == [3, 0, 0]


async def test_limit_that_was_not_asked_is_told_too(store: ClusterStore) -> None:
    user, ip = find_pair(is_ip_first=True)
    for number in range(8):
        await take_one(store, plan(f"other-{number}", ip))
    for _ in range(5):
        await take_one(store, plan(user, action="other"))
    reading = await take_one(store, plan(user, ip))
    assert (reading.status, reading.refused, tokens(reading)) == (Status.LIMIT, 0b101, [0, 5, 0])


async def test_factor_of_a_subject_lowers_the_limits_of_its_own_slot(store: ClusterStore, cluster_client: RedisCluster) -> None:
    user, ip = find_pair(is_ip_first=True)
    state = AbuseState(rev=1, factor=400, factor_until_ms=2**42)
    await cluster_client.set(name_abuse(f"user={user}"), state.model_dump_json())
    readings = [await take_one(store, plan(user, ip)) for _ in range(3)]
    assert [(reading.status, reading.factor) for reading in readings] == [
        (Status.ALLOW, 400),
        (Status.ALLOW, 400),
        (Status.THROTTLED, 400),
    ]
    assert (readings[2].refused, readings[2].refused_at_1) == (0b110, 0b100)


async def test_store_that_nobody_answers_says_so() -> None:
    store = ClusterStore("redis+cluster://127.0.0.1:1")
    store.start()
    assert await take(store, plan()) == [None]
    assert not store.is_available
    await store.close()


async def tell(node: Redis, *command: str | int) -> Any:
    return await node.execute_command(*command)  # type: ignore[no-untyped-call]


async def move_slot(slot: int, source: Redis, target: Redis, target_port: int, *, until_half: bool = False) -> None:
    """Move a slot as ``redis-cli --cluster reshard`` does; half: leave it on its way."""
    source_id, target_id = [(await tell(one, "CLUSTER MYID")).decode() for one in (source, target)]
    await tell(target, "CLUSTER SETSLOT", slot, "IMPORTING", source_id)
    await tell(source, "CLUSTER SETSLOT", slot, "MIGRATING", target_id)
    for key in await tell(source, "CLUSTER GETKEYSINSLOT", slot, 100):
        await tell(source, "MIGRATE", LOOPBACK, target_port, key, 0, 5000)
    if not until_half:
        for one in (target, source):
            await tell(one, "CLUSTER SETSLOT", slot, "NODE", target_id)


async def test_slot_that_moves_takes_its_buckets_along(store: ClusterStore, cluster_client: RedisCluster) -> None:
    asked = plan("mover", action="other")
    await take_one(store, asked)
    slot = key_slot(asked.keys[0].encode())
    owner = cluster_client.get_node_from_key(asked.keys[0])
    assert owner is not None
    others = [node for node in cluster_client.get_primaries() if node.name != owner.name]
    ports = int(owner.port), int(others[0].port)
    async with Redis(host=LOOPBACK, port=ports[0]) as source, Redis(host=LOOPBACK, port=ports[1]) as target:
        await cluster_client.set(name_abuse("user=mover"), AbuseState(rev=1).model_dump_json())
        await move_slot(slot, source, target, ports[1], until_half=True)
        assert tokens(await take_one(store, asked)) == [3], "the one that it leaves says who has the keys by now"
        await move_slot(slot, source, target, ports[1])
        assert tokens(await take_one(store, asked)) == [2], "the one that it has left says where it is"
        calls = store.stats.calls
        assert tokens(await take_one(store, asked)) == [1]
        assert store.stats.calls == calls + 1, "from then on it is asked there"
        await cluster_client.delete(name_abuse("user=mover"))
        await move_slot(slot, target, source, ports[0])


@asynccontextmanager
async def open_stores(redis_cluster: RunningStack, count: int) -> AsyncIterator[list[ClusterStore]]:
    stores = [ClusterStore(redis_cluster.addresses.cluster_url, timeout_s=30.0) for _ in range(count)]
    for each in stores:
        each.start()
    for each in stores:
        await until(lambda each=each: each.is_available)  # type: ignore[misc]
    yield stores
    await asyncio.gather(*(each.close() for each in stores))


async def test_many_enforcers_over_two_slots_admit_what_the_limits_hold_and_lose_nothing(
    redis_cluster: RunningStack, cluster_client: RedisCluster
) -> None:
    users = [f"u{number}" for number in range(30)]
    chance = random.Random(7)
    admitted: Counter[str] = Counter()
    async with open_stores(redis_cluster, 3) as stores:

        async def ask_on(store: ClusterStore) -> None:
            for _ in range(20):
                user = chance.choice(users)
                reading = await take_one(store, plan(user, action="shared"))
                admitted[user] += reading.status == Status.ALLOW

        await asyncio.gather(*(ask_on(store) for store in stores for _ in range(10)))
        assert admitted.total() <= 100
        assert max(admitted.values()) <= 5
        for user in users:  # what is left, one after the other
            for _ in range(5):
                admitted[user] += (await take_one(stores[0], plan(user, action="shared"))).status == Status.ALLOW
        assert admitted.total() == 100
        for user in users:
            peek = await take_one(stores[0], plan(user, action="shared", cost=0))
            assert [level // DAY for level in peek.levels] == [0, 5 - admitted[user]]


async def test_enforcer_that_dies_between_take_and_refund_loses_at_most_what_it_had_under_way(
    redis_cluster: RunningStack, cluster_client: RedisCluster
) -> None:
    async with open_stores(redis_cluster, 1) as (other,):
        for _ in range(5):
            await take_one(other, plan("poor", action="shared"))
        for ticks in range(12):
            async with open_stores(redis_cluster, 1) as (dying,):
                for _ in range(3):
                    dying.take(plan("poor", action="shared"), lambda *_: None, lambda *_: None)
                for _ in range(ticks):
                    await asyncio.sleep(0)
                for node in dying._nodes.values():
                    assert node._connection is not None
                    node._connection.transport.abort()
        everybody, poor = (await take_one(other, plan("poor", action="shared", cost=0))).levels
        assert poor // DAY == 0
        assert 95 - 3 * 12 <= everybody // DAY <= 95
        taken = [await take_one(other, plan(f"rich-{number}", action="shared")) for number in range(100)]
        assert sum(reading.status == Status.ALLOW for reading in taken) == everybody // DAY
