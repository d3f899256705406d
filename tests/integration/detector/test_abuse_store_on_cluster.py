"""A verdict on a Redis Cluster: applied once, in the subject's slot, and seen by enforcers."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio.cluster import RedisCluster

from detector.abuse_store import AbuseStore, RedisAway
from detector.ladder import Offence
from detector.rules import Ladder
from devstack.stack import RunningStack
from enforcer.decisions.fallback import Fallback
from enforcer.decisions.refusals import Refusals
from enforcer.limits.bucket import Status
from enforcer.stores.changes import follow_changes
from enforcer.stores.cluster_store import open_store
from lua.address import open_client
from lua.keys import CHANGES_CHANNEL
from tests.integration.enforcer.test_store import take, until
from tests.unit.enforcer.builders import make_plan

HOUR_MS = 3_600_000
LADDER = Ladder.model_validate(
    {"half_life": "1h", "rungs": [{"name": "ban_10m", "penalty": "ban", "duration": "10m"}]},
)


def make_offence(subject: str, number: int) -> Offence:
    at_ms = int(time.time() * 1000)
    return Offence(f"{number:032x}", subject, "brute_force", at_ms=at_ms, start=1, scope=("login",), is_shadow=False)


async def test_ban_is_applied_once_and_told_to_every_enforcer(
    redis_cluster: RunningStack, cluster_client: RedisCluster
) -> None:
    url = redis_cluster.addresses.cluster_url
    store, refusals, fallback = open_store(url, 5.0), Refusals(), Fallback(1)
    store.start()
    following = asyncio.create_task(follow_changes(url, refusals, fallback, asyncio.Event().set))
    try:
        await until(lambda: store.is_available)
        async with asyncio.timeout(20):
            while not refusals._changed:  # whichever node it listens at, of masters and replicas
                await cluster_client.publish(CHANGES_CHANNEL, b'{"subject":"user=first"}')
        async with open_client(url) as client:
            abuse = AbuseStore(client, keep_ms=72 * HOUR_MS)
            # Names that lie on all three masters.
            for number in range(10):
                offence = make_offence(f"user=mallory-{number}", number)
                first, again = await abuse.apply(offence, LADDER), await abuse.apply(offence, LADDER)
                assert (first.is_repeat, again.is_repeat) == (False, True)
                assert (first.finding, first.state) == (again.finding, again.state)
        readings = await take(store, *[make_plan(f"mallory-{number}") for number in range(10)])
        assert [reading.status for reading in readings if reading is not None] == [Status.BAN] * 10
        await until(lambda: len(fallback._bans) == 10)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.close()


async def test_cluster_that_nobody_answers_for_is_away_and_is_asked_again() -> None:
    async with asyncio.timeout(30):
        client = open_client("redis+cluster://127.0.0.1:1", socket_timeout=1.0, socket_connect_timeout=1.0)
        with pytest.raises(RedisAway):
            await AbuseStore(client, keep_ms=HOUR_MS).apply(make_offence("user=mallory", 1), LADDER)
        await client.aclose()
