"""The store's one connection, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from enforcer.decisions.decision import Reading
from enforcer.decisions.plan import Plan
from enforcer.limits.bucket import Status
from enforcer.stores.cluster_store import Store
from enforcer.stores.store import RedisStore
from tests.unit.enforcer.builders import make_plan

TOKEN = 60_000_000


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 what is waited for tells nobody
            await asyncio.sleep(0.001)


@pytest.fixture
async def store(redis_client: Redis, redis_url: str) -> AsyncIterator[RedisStore]:
    one = RedisStore(redis_url, timeout_s=5.0)
    one.start()
    await until(lambda: one.is_available)
    yield one
    await one.close()


async def take(store: Store, *plans: Plan) -> list[Reading | None]:
    """The readings, in the order of the plans."""
    waiting: list[asyncio.Future[Reading | None]] = []
    for plan in plans:
        future: asyncio.Future[Reading | None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        store.take(plan, lambda *_: None, lambda _plan, _answer, reading, future=future: future.set_result(reading))  # type: ignore[misc]
    return await asyncio.gather(*waiting)


async def test_checks_in_flight_share_a_call_and_are_answered_in_order(store: RedisStore) -> None:
    plans = [make_plan(f"user-{number % 10}") for number in range(100)]
    readings = await take(store, *plans)
    levels = [reading.levels[0] // TOKEN for reading in readings if reading is not None]
    assert levels[:50] == [4] * 10 + [3] * 10 + [2] * 10 + [1] * 10 + [0] * 10
    assert [reading.status for reading in readings[50:] if reading is not None] == [Status.LIMIT] * 50
    assert (store.stats.calls, store.stats.checks) == (1, 100)


async def test_more_checks_than_a_call_holds_take_several(store: RedisStore) -> None:
    readings = await take(store, *[make_plan(f"user-{number}") for number in range(1000)])
    assert all(reading is not None and reading.status == Status.ALLOW for reading in readings)
    assert store.stats.calls == 8


async def test_flushed_script_is_loaded_again_and_the_call_spends_once(store: RedisStore, redis_client: Redis) -> None:
    await take(store, make_plan())
    loads = store.stats.reloads
    await redis_client.script_flush()
    (reading,) = await take(store, make_plan())
    assert reading is not None
    assert (reading.status, reading.levels[0] // TOKEN) == (Status.ALLOW, 3)
    assert store.stats.reloads == loads + 1


async def test_connection_that_is_lost_is_made_again(store: RedisStore, redis_client: Redis) -> None:
    await take(store, make_plan())
    for client in await redis_client.client_list():
        if client["name"] == "ratchet-enforcer":
            await redis_client.client_kill_filter(_id=client["id"])
    await until(lambda: store.stats.reconnects == 2 and store.is_available)
    (reading,) = await take(store, make_plan())
    assert reading is not None
