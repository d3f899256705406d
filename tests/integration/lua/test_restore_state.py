"""What is put back, and what is left alone, on a real Redis."""

from __future__ import annotations

import json
import time

from redis.asyncio import Redis

from detector.ladder import Offence, judge
from detector.rebuild import Held, read_held, restore
from detector.rules import Ladder
from lua.keys import CHANGES_CHANNEL, name_abuse
from topics.events import AbuseState

KEEP_MS = 3_600_000
USER = "user=mallory"
LADDER = Ladder.model_validate({"half_life": "1h", "rungs": [{"name": "ban_10m", "penalty": "ban", "duration": "10m"}]})


def make_state() -> AbuseState:
    at_ms = time.time_ns() // 1_000_000
    offence = Offence(f"{1:032x}", USER, "brute_force", scope=("login",), at_ms=at_ms, start=1, is_shadow=False)
    state = judge(None, offence, LADDER, now_ms=at_ms, keep_ms=KEEP_MS).state
    assert state
    return state


def hold(state: AbuseState) -> Held:
    return read_held(state.model_dump_json().encode(), keep_ms=KEEP_MS)


async def test_highest_revision_stays_whatever_the_order(redis_client: Redis) -> None:
    first = make_state()
    old, new = hold(first), hold(first.model_copy(update={"rev": first.rev + 1, "offences": 2}))
    assert [await restore(redis_client, {USER: held}) for held in (old, new, old, new)] == [1, 1, 0, 0]
    assert await redis_client.get(name_abuse(USER)) == new.state
    assert await redis_client.pexpiretime(name_abuse(USER)) == new.expires_at_ms


async def test_state_that_is_put_back_is_published_and_expires_as_the_ladder_says(redis_client: Redis) -> None:
    state = make_state()
    held = hold(state)
    async with redis_client.pubsub() as listener:
        await listener.subscribe(CHANGES_CHANNEL)
        await listener.get_message(timeout=5)
        await restore(redis_client, {USER: held})
        message = await listener.get_message(timeout=5)
    assert message is not None
    assert json.loads(message["data"]) == {"subject": USER, "state": json.loads(held.state)}
    # A score of 1000 is gone after ten half-lives, counted from the end of the ban.
    assert held.expires_at_ms == state.bans[0].until_ms + 10 * 3_600_000 + KEEP_MS
    assert held.until_ms == state.bans[0].until_ms


async def test_foreign_data_under_one_key_keeps_nobody_else_from_being_put_back(redis_client: Redis) -> None:
    await redis_client.rpush(name_abuse("user=broken"), "not a string")
    held = hold(make_state())
    assert await restore(redis_client, {"user=broken": held, USER: held}) == 1
    assert await redis_client.get(name_abuse(USER)) == held.state
