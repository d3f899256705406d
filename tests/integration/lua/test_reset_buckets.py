"""The script that fills buckets, on a real Redis."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from enforcer.admin.subject_store import SubjectStore
from lua.keys import CHANGES_CHANNEL, name_bucket, name_verdict

SUBJECT = "user=mallory"
BUCKETS = [name_bucket(SUBJECT, "login", "per_user"), name_bucket(SUBJECT, "login", "daily")]


@pytest.fixture
def store(redis_client: Redis) -> SubjectStore:
    return SubjectStore(redis_client)


async def test_reset_forgets_the_buckets_once_and_is_published(store: SubjectStore, redis_client: Redis) -> None:
    other = name_bucket("user=alice", "login", "per_user")
    await redis_client.mset(dict.fromkeys([*BUCKETS, other], "0 0 a"))
    async with redis_client.pubsub(ignore_subscribe_messages=True) as listener:
        await listener.subscribe(CHANGES_CHANNEL)
        await listener.get_message(timeout=5)
        first = await store.reset(SUBJECT, SUBJECT, "a", "d", BUCKETS)
        message = await listener.get_message(timeout=5)
        assert message is not None
        assert json.loads(message["data"]) == {"subject": SUBJECT}
    assert await redis_client.exists(*BUCKETS) == 0
    assert await redis_client.exists(other) == 1
    await redis_client.set(BUCKETS[0], "0 0 a")
    again = await store.reset(SUBJECT, SUBJECT, "a", "d", BUCKETS)
    assert (again.at_ms, first.is_repeat, again.is_repeat) == (first.at_ms, False, True)
    assert await redis_client.exists(BUCKETS[0]) == 1, "a repeat fills nothing"


async def test_answer_is_kept_on_redis_s_clock(store: SubjectStore, redis_client: Redis) -> None:
    found = await store.reset(SUBJECT, SUBJECT, "a", "d", BUCKETS)
    seconds, micros = await redis_client.time()
    assert 0 <= seconds * 1000 + micros // 1000 - found.at_ms < 60_000
    kept_ms = await redis_client.pexpiretime(name_verdict(SUBJECT, "a")) - found.at_ms
    assert kept_ms == 3 * 86_400_000
