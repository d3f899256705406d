"""Overrides in a real Redis."""

from __future__ import annotations

import msgspec
import pytest
from redis.asyncio import Redis

from enforcer.reload import overrides
from enforcer.reload.generations import publish_document
from enforcer.reload.overrides import (
    OverrideRefused,
    OverrideUnknown,
    RunTimeOverride,
    Target,
    find_overrides,
    list_overrides,
    read_changed,
    remove_override,
    set_override,
)
from enforcer.stores.redis_script import IdTaken
from lua.keys import CHANGES_CHANNEL, OVERRIDES, OVERRIDES_ENDS
from tests.unit.enforcer.builders import POLICIES, POLICIES_IN_FORCE

REQUEST = "request-0123456789"
NO_TERMS = "no terms; write a capacity of 1 or more and a refill of tokens/time, as in 5/1m"


async def make_override(redis: Redis, subject: str = "user=alice", for_ms: int = 60_000, capacity: int = 50) -> RunTimeOverride:
    seconds, micros = await redis.time()
    until_ms = seconds * 1000 + micros // 1000 + for_ms
    return RunTimeOverride(subject, "login", "per_user", capacity, "50/1m", until_ms, "a good customer", "ann")


async def put(redis: Redis, override: RunTimeOverride, request_id: str = REQUEST) -> tuple[int, bool]:
    result = await set_override(redis, override, request_id, POLICIES_IN_FORCE)
    return result.revision, result.is_repeat


async def read(redis: Redis, after: int = 0) -> list[tuple[str, int | None, int]]:
    """Subject, capacity and revision of what changed."""
    return [
        (target.subject, None if override is None else override.capacity, revision)
        async for target, override, revision in read_changed(redis, after)
    ]


async def test_what_is_set_is_listed_with_who_and_why_and_since_when(redis_client: Redis) -> None:
    override = await make_override(redis_client)
    assert await put(redis_client, override) == (1, False)
    (listed,) = await list_overrides(redis_client)
    assert msgspec.structs.replace(listed, since_ms=0) == override
    assert 0 < override.until_ms - listed.since_ms <= 60_000


async def test_overrides_of_some_targets_are_found_while_they_are_in_force(redis_client: Redis) -> None:
    alice = await make_override(redis_client)
    await put(redis_client, alice)
    await put(redis_client, await make_override(redis_client, "user=bob"), REQUEST + "2")
    ended = msgspec.structs.replace(alice, limit="daily", until_ms=1)
    await redis_client.hset(OVERRIDES, " ".join(ended.target), msgspec.json.encode(ended))
    targets = [alice.target, ended.target, Target("user=alice", "other", "per_user")]
    assert [override.target for override in await find_overrides(redis_client, targets)] == [alice.target]
    assert await find_overrides(redis_client, []) == []


async def test_repeated_request_changes_nothing(redis_client: Redis) -> None:
    override = await make_override(redis_client)
    await put(redis_client, override)
    await put(redis_client, msgspec.structs.replace(override, capacity=7), REQUEST + "2")
    assert await put(redis_client, override) == (1, True)
    assert await read(redis_client) == [("user=alice", 7, 2)]


async def test_changes_are_read_from_the_one_that_is_known(redis_client: Redis) -> None:
    for number, name in enumerate(("alice", "bob", "cid")):
        await put(redis_client, await make_override(redis_client, f"user={name}"), f"{REQUEST}{number}")
    assert await read(redis_client, 2) == [("user=cid", 50, 3)]
    await remove_override(redis_client, Target("user=alice", "login", "per_user"), REQUEST + "x")
    assert await read(redis_client, 2) == [("user=cid", 50, 3), ("user=alice", None, 4)]
    assert [override.subject for override in await list_overrides(redis_client)] == ["user=bob", "user=cid"]


async def test_more_changes_than_one_page_are_all_read(redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "_PAGE", 3)
    for number in range(8):
        await put(redis_client, await make_override(redis_client, f"user={number}"), f"{REQUEST}{number}")
    assert [revision for _, _, revision in await read(redis_client)] == list(range(1, 9))


async def test_removal_is_answered_again_and_unknown_ones_are_told(redis_client: Redis) -> None:
    target = Target("user=alice", "login", "per_user")
    with pytest.raises(OverrideUnknown) as unknown:
        await remove_override(redis_client, target, REQUEST + "r")
    assert str(unknown.value) == "user=alice has no override of limit login:per_user"
    await put(redis_client, await make_override(redis_client))
    first = await remove_override(redis_client, target, REQUEST + "r")
    assert (first.revision, first.is_repeat, first.override) == (2, False, None)
    again = await remove_override(redis_client, target, REQUEST + "r")
    assert again == first._replace(is_repeat=True)
    with pytest.raises(OverrideUnknown):
        await remove_override(redis_client, target, REQUEST + "s")


async def test_what_has_ended_is_no_longer_listed_and_is_swept_by_the_next_change(redis_client: Redis) -> None:
    override = await make_override(redis_client)
    await put(redis_client, override)
    await redis_client.zadd(OVERRIDES_ENDS, {"user=alice login per_user": 1})
    await put(redis_client, await make_override(redis_client, "user=bob"), REQUEST + "2")
    assert await read(redis_client) == [("user=bob", 50, 2)]


async def test_there_is_a_most(redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "MOST_OVERRIDES", 2)
    for name in ("alice", "bob"):
        await put(redis_client, await make_override(redis_client, f"user={name}"), REQUEST + name)
    with pytest.raises(OverrideRefused) as refused:
        await put(redis_client, await make_override(redis_client, "user=cid"), REQUEST + "cid")
    assert str(refused.value) == "there are 2 overrides, which is the most; remove one, or let one end"
    await put(redis_client, await make_override(redis_client, "user=bob", capacity=9), REQUEST + "again")
    assert await read(redis_client) == [("user=alice", 50, 1), ("user=bob", 9, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "logon"}, "there is no policy 'logon'; there are: default, free, login, shared"),
        ({"limit": "per_key"}, "policy login has no limit 'per_key' in force; it has: per_ip, per_user"),
        ({"policy": "free"}, "policy free has no limit 'per_user' in force; it has: none"),
        ({"subject": "ip=203.0.113.7"}, "limit login:per_user is per user, not per ip"),
        (
            {"refill": "5 a minute"},
            f"capacity 50 and refill '5 a minute' are {NO_TERMS}",
        ),
        (
            {"capacity": 0},
            f"capacity 0 and refill '50/1m' are {NO_TERMS}",
        ),
        (
            {"capacity": 10**9, "refill": "1/1d"},
            "capacity 1000000000 is too large for this refill period; at most 104249 is allowed with it",
        ),
    ],
)
async def test_override_that_cannot_be_is_refused(redis_client: Redis, changes: dict[str, object], message: str) -> None:
    override = msgspec.structs.replace(await make_override(redis_client), **changes)
    with pytest.raises(OverrideRefused) as refused:
        await put(redis_client, override)
    assert str(refused.value) == message
    assert await redis_client.keys() == []


async def test_end_that_has_passed_is_refused(redis_client: Redis) -> None:
    override = await make_override(redis_client, for_ms=-1)
    with pytest.raises(OverrideRefused, match=f"until_ms is {override.until_ms}, which has passed: Redis says it is"):
        await put(redis_client, override)


async def test_change_is_published_with_its_subject(redis_client: Redis) -> None:
    async with redis_client.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(CHANGES_CHANNEL)
        await put(redis_client, await make_override(redis_client))
        message = None
        while message is None:
            message = await channel.get_message(timeout=10)
        assert message["data"] == b'{"subject":"user=alice","revision":1}'


async def test_request_id_belongs_to_one_kind_of_change(redis_client: Redis) -> None:
    await put(redis_client, await make_override(redis_client))
    for change in (
        publish_document(redis_client, POLICIES, REQUEST, "ann", "to test"),
        remove_override(redis_client, Target("user=alice", "login", "per_user"), REQUEST),
    ):
        with pytest.raises(IdTaken):
            await change
