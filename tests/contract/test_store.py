"""What every store promises, on one server and on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from redis.asyncio import Redis

from enforcer.limits.bucket import Status
from enforcer.stores.cluster_store import Store, open_store
from lua.address import open_client
from lua.keys import name_abuse
from tests.integration.enforcer.test_store import take, until
from tests.unit.enforcer.builders import make_plan
from topics.events import AbuseState, Ban

TOKEN = 60_000_000
IP = {"ip": "203.0.113.7"}
MASTERS = 3


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "server":
        return str(request.getfixturevalue("redis_url"))
    return str(request.getfixturevalue("redis_cluster").addresses.cluster_url)


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    async with open_client(url) as client:
        await client.flushdb()
        yield client


@pytest.fixture
async def store(client: Redis, url: str) -> AsyncIterator[Store]:
    one = open_store(url, 5.0)
    one.start()
    await until(lambda: one.is_available)
    yield one
    await one.close()


async def test_bucket_gives_what_it_holds_and_no_more(store: Store) -> None:
    readings = await take(store, *[make_plan("ann") for _ in range(7)])
    found = [(reading.status, reading.levels[0] // TOKEN) for reading in readings if reading is not None]
    assert found == [(Status.ALLOW, left) for left in (4, 3, 2, 1, 0)] + [(Status.LIMIT, 0)] * 2


async def test_checks_of_many_subjects_are_answered_each_with_its_own(store: Store) -> None:
    readings = await take(store, *[make_plan(f"user-{number % 200}") for number in range(1000)])
    levels = [reading.levels[0] // TOKEN for reading in readings if reading is not None]
    assert levels == [4] * 200 + [3] * 200 + [2] * 200 + [1] * 200 + [0] * 200


async def test_check_of_two_subjects_takes_from_all_limits_or_from_none(store: Store) -> None:
    for _ in range(5):
        await take(store, make_plan("ann", attributes=IP))
    (refused,) = await take(store, make_plan("ann", attributes=IP))
    (peek,) = await take(store, make_plan("ann", cost=0, attributes=IP))
    assert refused is not None
    assert peek is not None
    assert (refused.status, refused.refused, refused.refused_at_1) == (Status.LIMIT, 0b10, 0b10)
    assert [level // TOKEN for level in refused.levels] == [level // TOKEN for level in peek.levels] == [25, 0]


async def test_peek_changes_nothing_and_a_refund_gives_back(store: Store) -> None:
    plan = make_plan("ann", cost=3, attributes=IP)
    refund = msgspec.structs.replace(plan, check=msgspec.structs.replace(plan.check, cost=-2))
    peek = make_plan("ann", cost=0, attributes=IP)
    readings = [(await take(store, each))[0] for each in (plan, peek, refund, peek)]
    assert [[level // TOKEN for level in reading.levels] for reading in readings if reading is not None] == [
        [27, 2],
        [27, 2],
        [29, 4],
        [29, 4],
    ]


@pytest.mark.parametrize("subject", ["user=ann", "ip=203.0.113.7"])
async def test_ban_of_either_subject_refuses_and_takes_nothing(store: Store, client: Redis, subject: str) -> None:
    ban = Ban(until_ms=2**42, level=2, rule="brute_force", verdict_id="v1", scope=("login", "api/*"))
    await client.set(name_abuse(subject), AbuseState(rev=1, bans=(ban,)).model_dump_json())
    (reading,) = await take(store, make_plan("ann", attributes=IP))
    assert reading is not None
    assert reading.ban is not None
    assert (reading.status, reading.ban.subject, reading.ban.level, reading.ban.scope) == (
        Status.BAN,
        subject,
        2,
        ("login", "api/*"),
    )
    await client.delete(name_abuse(subject))
    (peek,) = await take(store, make_plan("ann", cost=0, attributes=IP))
    assert peek is not None
    assert [level // TOKEN for level in peek.levels] == [30, 5]


async def test_warning_is_told_with_its_subject(store: Store, client: Redis) -> None:
    state = AbuseState(rev=1, warn_until_ms=2**42, warn_rule="brute_force", warn_verdict="v9")
    await client.set(name_abuse("ip=203.0.113.7"), state.model_dump_json())
    (reading,) = await take(store, make_plan("ann", attributes=IP))
    assert reading is not None
    assert reading.warned is not None
    assert reading.warned.subject == "ip=203.0.113.7"


async def test_check_without_limits_or_state_is_allowed(store: Store) -> None:
    (reading,) = await take(store, make_plan("ann", action="free"))
    assert reading is not None
    assert (reading.status, reading.levels) == (Status.ALLOW, ())


async def test_flushed_script_is_loaded_again_and_each_call_spends_once(store: Store, client: Redis) -> None:
    await take(store, make_plan())
    await client.script_flush()
    first = asyncio.ensure_future(take(store, make_plan()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.ensure_future(take(store, make_plan()))
    levels = [reading.levels[0] // TOKEN for (reading,) in (await first, await second) if reading is not None]
    assert sorted(levels) == [2, 3]


async def test_poisoned_key_degrades_its_check_alone(store: Store, client: Redis) -> None:
    await client.lpush(make_plan("bob").bucket_keys[0], "x")
    ann, bob, cid = await take(store, make_plan("ann"), make_plan("bob"), make_plan("cid"))
    assert (ann is not None, bob, cid is not None) == (True, None, True)
    assert store.is_available


async def test_store_that_was_not_started_answers_at_once_that_nobody_knows(url: str) -> None:
    assert await take(open_store(url, 0.01), make_plan()) == [None]
