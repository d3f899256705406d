"""What an enforcer is told four times a second, from a real Redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from enforcer.limits.bucket import UNREGISTERED
from enforcer.reload.generations import ABANDONED_MS, ALIVE_MS, Factor, leave, poll, register_file
from enforcer.stores.redis_script import RedisAway
from lua.keys import ENFORCERS, FACTORS, POLICIES

OLDER, NEWER = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


async def test_poll_of_an_empty_redis_knows_nothing_but_who_asks(redis_client: Redis) -> None:
    state = await poll(redis_client, OLDER, "one/0/boot")
    assert (state.generation, state.version, state.document_generation, state.is_abandoned) == (UNREGISTERED, "", 0, False)
    assert (state.revision, state.enforcers, state.factors) == (0, 1, ())


async def test_poll_counts_the_enforcers_that_are_alive(redis_client: Redis) -> None:
    for source in ("one/0/a", "one/1/b", "two/0/c"):
        state = await poll(redis_client, OLDER, source)
    assert state.enforcers == 3
    await leave(redis_client, "one/1/b")
    await redis_client.zincrby(ENFORCERS, -ALIVE_MS - 1, "two/0/c")
    assert (await poll(redis_client, OLDER, "one/0/a")).enforcers == 1


async def test_newest_registration_that_nobody_goes_by_is_abandoned(redis_client: Redis) -> None:
    await register_file(redis_client, NEWER, "start", UNREGISTERED)
    assert not (await poll(redis_client, OLDER, "one/0/a")).is_abandoned
    await redis_client.hincrby(POLICIES, "held_ms", -ABANDONED_MS - 1)
    assert (await poll(redis_client, OLDER, "one/0/a")).is_abandoned
    assert not (await poll(redis_client, NEWER, "two/0/b")).is_abandoned
    assert not (await poll(redis_client, OLDER, "one/0/a")).is_abandoned


async def test_poll_tells_the_factors_that_have_not_ended(redis_client: Redis) -> None:
    now_ms = (await poll(redis_client, OLDER, "one/0/a")).now_us // 1000
    stored: dict[bytes | bytearray | memoryview[int] | str | int | float, str] = {
        "login": f"500 {now_ms + 60_000} 1000 one",
        "search": f"100 {now_ms - 1} 1000 one",
        "odd": "half",
    }
    await redis_client.hset(FACTORS, mapping=stored)
    assert (await poll(redis_client, OLDER, "one/0/a")).factors == (Factor("login", 500, 1000, now_ms + 60_000),)
    assert await redis_client.hkeys(FACTORS) == [b"login"]


async def test_redis_that_is_away_is_told_as_such() -> None:
    async with Redis.from_url("redis://127.0.0.1:1") as nobody:
        with pytest.raises(RedisAway, match="ConnectionError"):
            await poll(nobody, OLDER, "one/0/a")
