"""The script that puts a throttle factor in force, on a real Redis."""

from __future__ import annotations

from typing import cast

from redis.asyncio import Redis

from lua.keys import CHANGES_CHANNEL, FACTORS
from lua.scripts import SET_FACTOR

NOW_MS = 4_102_444_800_000
TTL_MS, TAKEOVER_MS = 5000, 2000


async def put(redis: Redis, factor: int, probes: int = 1000, *, owner: str = "one", now_ms: int = NOW_MS) -> list[int]:
    argv = ["login", factor, probes, owner, TTL_MS, TAKEOVER_MS, CHANGES_CHANNEL, now_ms]
    return cast("list[int]", await redis.eval(SET_FACTOR.source, 1, FACTORS, *map(str, argv)))


async def test_factor_is_stored_until_its_end_and_a_repeat_changes_nothing(redis_client: Redis) -> None:
    assert await put(redis_client, 500) == await put(redis_client, 500) == [NOW_MS, 1, 500, 1000]
    assert await redis_client.hgetall(FACTORS) == {b"login": f"500 {NOW_MS + TTL_MS} 1000 one".encode()}
    assert 0 < await redis_client.pttl(FACTORS) <= TTL_MS


async def test_factor_that_lowers_nothing_is_not_stored(redis_client: Redis) -> None:
    await put(redis_client, 500)
    assert await put(redis_client, 1000) == [NOW_MS, 1, 1000, 1000]
    assert await redis_client.exists(FACTORS) == 0


async def test_second_detector_is_told_what_is_in_force_until_the_first_is_gone(redis_client: Redis) -> None:
    await put(redis_client, 500, 30)
    last_ms = NOW_MS + TTL_MS - TAKEOVER_MS
    assert await put(redis_client, 900, owner="two", now_ms=last_ms - 1) == [last_ms - 1, 0, 500, 30]
    assert await put(redis_client, 1000, owner="two", now_ms=last_ms - 1) == [last_ms - 1, 0, 500, 30]
    assert await put(redis_client, 900, owner="two", now_ms=last_ms) == [last_ms, 1, 900, 1000]
    assert await put(redis_client, 500, owner="one", now_ms=last_ms) == [last_ms, 0, 900, 1000]


async def test_changes_alone_are_published(redis_client: Redis) -> None:
    async with redis_client.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(CHANGES_CHANNEL)
        for factor, probes in ((500, 1000), (500, 1000), (500, 10), (1000, 1000), (1000, 1000)):
            await put(redis_client, factor, probes)
        await redis_client.publish(CHANGES_CHANNEL, "end")
        heard = []
        async for message in channel.listen():
            if message["data"] == b"end":
                break
            heard.append(message["data"])
    assert heard == [b'{"factor_of":"login"}'] * 3
