"""The store of a Redis Cluster, on a real one of three masters and their replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot

from devstack.ports import LOOPBACK
from devstack.stack import RunningStack, StackSpec, start
from enforcer.bucket import Status
from enforcer.cluster_store import ClusterStore
from enforcer.decision import Reading
from enforcer.plan import Plan
from enforcer.planner import Planner
from lua.keys import name_abuse
from tests.integration.enforcer.test_store import take, until
from tests.unit.enforcer.builders import make_check, make_policies
from topics.events import AbuseState, Ban

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
  - name: default
    match: { action: "*" }
    limits:
      - { name: per_user, per: [user], capacity: 5, refill: 5/1m }
"""
PLANNER = Planner(make_policies(POLICIES))


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with start(StackSpec(parts=frozenset(), cluster=True, cluster_replicas=True)) as stack:
        yield stack


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[RedisCluster]:
    nodes = [ClusterNode(LOOPBACK, port) for port in stack.addresses.cluster_ports]
    async with RedisCluster(startup_nodes=nodes, require_full_coverage=False) as client:
        await client.flushdb(target_nodes=RedisCluster.PRIMARIES)
        yield client


@pytest.fixture
async def store(stack: RunningStack, client: RedisCluster) -> AsyncIterator[ClusterStore]:
    one = ClusterStore(stack.addresses.cluster_url, timeout_s=5.0)
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


@pytest.mark.parametrize("banned", ["user", "ip"])
async def test_ban_of_any_subject_refuses_and_takes_nothing(store: ClusterStore, client: RedisCluster, banned: str) -> None:
    user, ip = find_pair(is_ip_first=True)
    subject = f"user={user}" if banned == "user" else f"ip={ip}"
    ban = Ban(until_ms=2**42, level=1, rule="brute_force", verdict_id="v1", scope=("login",))
    await client.set(name_abuse(subject), AbuseState(rev=1, bans=(ban,)).model_dump_json())
    reading = await take_one(store, plan(user, ip))
    assert reading.ban is not None
    assert (reading.status, reading.ban.subject) == (Status.BAN, subject)
    await client.delete(name_abuse(subject))
    assert tokens(await take_one(store, plan(user, ip, cost=0))) == [8, 5, 2]
    await client.set(name_abuse(subject), AbuseState(rev=1, bans=(ban,)).model_dump_json())
    assert (await take_one(store, plan(user, ip, cost=0))).ban is not None


async def test_factor_of_a_subject_lowers_the_limits_of_its_own_slot(store: ClusterStore, client: RedisCluster) -> None:
    user, ip = find_pair(is_ip_first=True)
    state = AbuseState(rev=1, factor=400, factor_until_ms=2**42)
    await client.set(name_abuse(f"user={user}"), state.model_dump_json())
    readings = [await take_one(store, plan(user, ip)) for _ in range(3)]
    assert [(reading.status, reading.factor) for reading in readings] == [
        (Status.ALLOW, 400),
        (Status.ALLOW, 400),
        (Status.THROTTLED, 400),
    ]
    assert (readings[2].refused, readings[2].refused_at_1) == (0b110, 0b100)


async def test_poisoned_key_degrades_its_checks_alone(store: ClusterStore, client: RedisCluster) -> None:
    await client.lpush(plan("bob", action="other").bucket_keys[0], "x")
    ann, bob = await take(store, plan("ann", action="other"), plan("bob", action="other"))
    assert (ann is not None, bob) == (True, None)
    assert store.is_available


async def test_flushed_scripts_are_loaded_again(store: ClusterStore, client: RedisCluster) -> None:
    await client.script_flush()
    user, ip = find_pair(is_ip_first=True)
    assert tokens(await take_one(store, plan(user, ip))) == [7, 4, 1]


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


async def test_slot_that_moves_takes_its_buckets_along(store: ClusterStore, client: RedisCluster) -> None:
    asked = plan("mover", action="other")
    await take_one(store, asked)
    slot = key_slot(asked.keys[0].encode())
    owner = client.get_node_from_key(asked.keys[0])
    assert owner is not None
    others = [node for node in client.get_primaries() if node.name != owner.name]
    ports = int(owner.port), int(others[0].port)
    async with Redis(host=LOOPBACK, port=ports[0]) as source, Redis(host=LOOPBACK, port=ports[1]) as target:
        await client.set(name_abuse("user=mover"), AbuseState(rev=1).model_dump_json())
        await move_slot(slot, source, target, ports[1], until_half=True)
        assert tokens(await take_one(store, asked)) == [3], "the one that it leaves says who has the keys by now"
        await move_slot(slot, source, target, ports[1])
        assert tokens(await take_one(store, asked)) == [2], "the one that it has left says where it is"
        calls = store.stats.calls
        assert tokens(await take_one(store, asked)) == [1]
        assert store.stats.calls == calls + 1, "from then on it is asked there"
        await client.delete(name_abuse("user=mover"))
        await move_slot(slot, target, source, ports[0])
