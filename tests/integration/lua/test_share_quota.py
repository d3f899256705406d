"""The script that divides a limit among enforcers, on a real Redis."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from enforcer.envoy.quota import LARGEST_DEMAND, LEAST_DEMAND, WHOLE, find_level
from enforcer.stores.quota_store import QuotaStore, ShareRequest
from lua.keys import CHANGES_CHANNEL, QUOTAS_CHANNEL, name_bucket, name_shares
from lua.scripts import SHARE_QUOTA

BUCKET = name_bucket("user=alice", "api", "per_user")
TTL_MS = 16_000


@dataclass
class Enforcers:
    """Calls of the script at a time of the test's own."""

    redis: Redis
    now_ms: int = 1_000_000

    async def ask(self, member: str, demand: int, quantum: int = 1) -> int:
        argv = (member, demand, quantum, TTL_MS, QUOTAS_CHANNEL, self.now_ms)
        return int(await self.redis.eval(SHARE_QUOTA.source, 1, name_shares(BUCKET), *argv))


@pytest.fixture
def enforcers(redis_client: Redis) -> Enforcers:
    return Enforcers(redis_client)


async def test_a_lone_enforcer_has_the_whole_limit(enforcers: Enforcers) -> None:
    assert await enforcers.ask("a", LEAST_DEMAND) == WHOLE


async def test_a_newcomer_has_its_part_at_once(enforcers: Enforcers) -> None:
    await enforcers.ask("a", WHOLE)
    assert await enforcers.ask("b", WHOLE) == WHOLE // 2
    assert await enforcers.ask("a", WHOLE) == WHOLE // 2


async def test_shares_are_what_the_specification_divides_and_never_more_than_the_limit(enforcers: Enforcers) -> None:
    chosen = random.Random(7)
    for _ in range(30):
        members = "abcdefg"[: chosen.randrange(1, 8)]
        demands = {member: chosen.choice([LEAST_DEMAND, WHOLE // 3, WHOLE * 2, LARGEST_DEMAND]) for member in members}
        for member, demand in demands.items():
            await enforcers.ask(member, demand)
        shares = {member: await enforcers.ask(member, demand) for member, demand in demands.items()}
        level, extra = find_level(demands.values(), WHOLE)
        assert shares == {member: min(demand, level) + extra for member, demand in demands.items()}
        assert sum(shares.values()) <= WHOLE
        enforcers.now_ms += TTL_MS


async def test_an_enforcer_that_is_gone_no_longer_counts(enforcers: Enforcers) -> None:
    await enforcers.ask("a", WHOLE)
    enforcers.now_ms += TTL_MS - 1
    assert await enforcers.ask("b", WHOLE) == WHOLE // 2
    enforcers.now_ms += 1
    assert await enforcers.ask("b", WHOLE) == WHOLE


@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_a_share_is_of_use_or_none(enforcers: Enforcers, count: int) -> None:
    quantum = WHOLE // 2
    members = "abcde"[:count]
    for member in members:
        await enforcers.ask(member, LEAST_DEMAND, quantum)
    shares = [await enforcers.ask(member, LEAST_DEMAND, quantum) for member in members]
    assert shares == [[WHOLE], [quantum] * 2, [quantum, quantum, 0], [quantum, quantum, 0, 0, 0]][(1, 2, 3, 5).index(count)]


@pytest_asyncio.fixture
async def heard(redis_url: str, redis_client: Redis) -> AsyncIterator[tuple[QuotaStore, asyncio.Queue[str]]]:
    """A listening adapter, and what it hears."""
    changes: asyncio.Queue[str] = asyncio.Queue()
    store = QuotaStore(redis_url, "a")
    store.listen(changes.put_nowait)
    deadline_s = time.monotonic() + 10
    while not (await redis_client.pubsub_numsub(QUOTAS_CHANNEL))[0][1]:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
    yield store, changes
    await store.close()


async def test_the_others_hear_who_comes_changes_and_leaves(
    heard: tuple[QuotaStore, asyncio.Queue[str]], redis_url: str, redis_client: Redis
) -> None:
    store, changes = heard
    other = QuotaStore(redis_url, "b")
    modest, greedy = [ShareRequest(BUCKET, WHOLE, 1)], [ShareRequest(BUCKET, WHOLE * 2, 1)]
    assert await store.ask(modest, TTL_MS) == [WHOLE]
    assert await other.ask(modest, TTL_MS) == [WHOLE // 2]
    assert await asyncio.wait_for(changes.get(), 10) == BUCKET
    assert await store.ask(modest, TTL_MS) == [WHOLE // 2]
    await other.ask(modest, TTL_MS)
    await redis_client.publish(CHANGES_CHANNEL, '{"subject":"user=alice"}')
    heard_next = await asyncio.wait_for(changes.get(), 10)
    assert heard_next == "user=alice", "what one did itself, and what changed nothing, is not heard"
    await other.ask(greedy, TTL_MS)
    assert await asyncio.wait_for(changes.get(), 10) == BUCKET
    await other.leave([BUCKET])
    assert await asyncio.wait_for(changes.get(), 10) == BUCKET
    assert await store.ask(modest, TTL_MS) == [WHOLE]
    await other.close()


async def test_the_script_is_loaded_where_redis_forgot_it(redis_url: str, redis_client: Redis) -> None:
    store = QuotaStore(redis_url, "a")
    await redis_client.script_flush()
    assert await store.ask([ShareRequest(BUCKET, WHOLE, 1)], TTL_MS) == [WHOLE]
    await store.close()


async def test_without_redis_there_is_no_answer() -> None:
    store = QuotaStore("redis://127.0.0.1:1", "a", timeout_s=0.5)
    assert await store.ask([ShareRequest(BUCKET, WHOLE, 1)], TTL_MS) is None
    await store.close()
