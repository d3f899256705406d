"""What the scripts publish ends what an enforcer remembers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from redis.asyncio import Redis

from enforcer.decisions.decision import Ban, Reading
from enforcer.decisions.fallback import Fallback
from enforcer.decisions.refusals import Refusals
from enforcer.limits.bucket import Status
from enforcer.stores.changes import follow_changes
from lua.keys import CHANGES_CHANNEL
from tests.unit.enforcer.builders import make_plan

REFUSED = Reading(1_700_000_000_000_000, Status.LIMIT, 1000, 0b1, 0b1, (0,))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 what is waited for tells nobody
            await asyncio.sleep(0.001)


async def until_listened(client: Redis) -> None:
    async with asyncio.timeout(20):
        while not int((await client.pubsub_numsub(CHANGES_CHANNEL))[0][1]):  # noqa: ASYNC110 what is waited for tells nobody
            await asyncio.sleep(0.001)


async def test_published_change_ends_the_memory_of_its_subject_alone(redis_client: Redis, redis_url: str) -> None:
    refusals = Refusals()
    sent_s = time.monotonic()
    following = asyncio.create_task(follow_changes(redis_url, refusals, Fallback(1), asyncio.Event().set))
    try:
        await until_listened(redis_client)
        # Subscribing clears what was remembered before; that it is over is seen by an entry that stays.
        reading = Reading(REFUSED.now_us, Status.LIMIT, 1000, 0b1, 0b1, (0,), sent_s=sent_s)

        def is_known(user: str) -> bool:
            return refusals.find(make_plan(user), sent_s) is not None

        await redis_client.publish(CHANGES_CHANNEL, b"not json")
        await redis_client.publish(CHANGES_CHANNEL, b'{"subject":"user=first"}')
        await until(lambda: bool(refusals._changed))
        for user in ("alice", "bob"):
            refusals.remember(make_plan(user), reading)
        assert is_known("alice")
        await redis_client.publish(CHANGES_CHANNEL, b'{"subject":"user=alice","state":{"v":1,"rev":2}}')
        await until(lambda: not is_known("alice"))
        assert is_known("bob")
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_subscribing_forgets_what_may_have_changed_before(redis_client: Redis, redis_url: str) -> None:
    refusals = Refusals()
    refusals.remember(make_plan(), REFUSED)
    following = asyncio.create_task(follow_changes(redis_url, refusals, Fallback(1), asyncio.Event().set))
    try:
        await until(lambda: refusals.find(make_plan(), 0.0) is None)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_fallback_learns_of_bans_and_that_they_were_lifted(redis_client: Redis, redis_url: str) -> None:
    fallback = Fallback(1)
    until_ms = time.time_ns() // 1_000_000 + 60_000
    following = asyncio.create_task(follow_changes(redis_url, Refusals(), fallback, asyncio.Event().set))

    def is_banned(user: str) -> bool:
        return fallback.read(fallback.share(make_plan(user)), time.time_ns() // 1000).ban is not None

    try:
        ban = Ban(until_ms, 2, "brute_force", "v", "user=alice", ("login",))
        fallback.remember(ban)
        banned = {"until_ms": until_ms, "level": 0, "rule": "", "verdict_id": "w", "scope": ["*"]}
        await until_listened(redis_client)
        assert is_banned("alice")
        await redis_client.publish(CHANGES_CHANNEL, json.dumps({"subject": "user=alice"}))
        await redis_client.publish(CHANGES_CHANNEL, json.dumps({"subject": "user=bob", "state": {"v": 1, "bans": [banned]}}))
        await until(lambda: is_banned("bob"))
        assert is_banned("alice"), "filled buckets lift no ban"
        await redis_client.publish(CHANGES_CHANNEL, json.dumps({"subject": "user=alice", "state": {"v": 1, "bans": []}}))
        await until(lambda: not is_banned("alice"))
        assert is_banned("bob")
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
