"""An emptied Redis: put back from topic ``subjects`` by the command, and by the running detector under load."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from devstack.stack import RunningStack, StackSpec, start
from lua.keys import INTACT, name_abuse
from tests.detector_under_test import DetectorProcess, Enforcer, now_ms, poll, run_detector, wait_for_ban
from topics.events import AbuseState

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    """Of its own: it is emptied while others count on theirs."""
    with start(StackSpec(parts=frozenset({"redis", "kafka"}))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: RunningStack) -> AsyncIterator[Redis]:
    async with Redis.from_url(stack.redis_url, decode_responses=True) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def detector(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DetectorProcess]:
    process = DetectorProcess(stack.kafka_bootstrap, stack.redis_url, tmp_path_factory.mktemp("detector") / "detector.log")
    async with run_detector(process):
        yield process


async def run_rebuild(stack: RunningStack, *options: str) -> tuple[int, str]:
    command = ["-m", "detector", "rebuild", "--redis", stack.redis_url, "--kafka", stack.kafka_bootstrap, *options]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    return process.returncode or 0, (out + err).decode()


async def read_all(client: Redis) -> dict[str, tuple[str, int]]:
    keys = sorted([key async for key in client.scan_iter(match=name_abuse("*"))])
    return {key: (str(await client.get(key)), await client.pexpiretime(key)) for key in keys}


def name_users(count: int) -> list[str]:
    return [f"user=mallory-{uuid.uuid4().hex[:8]}" for _ in range(count)]


async def test_bans_are_back_within_seconds_when_redis_is_emptied_under_load(
    detector: DetectorProcess, enforcer: Enforcer, client: Redis, stack: RunningStack
) -> None:
    banned = name_users(20)
    for user in banned:
        await enforcer.deny(user, 10)
    for user in banned:
        await wait_for_ban(client, user)
    before = await read_all(client)

    async def attack() -> None:
        while True:
            await enforcer.deny(name_users(1)[0], 10)
            await asyncio.sleep(0.01)

    load = asyncio.create_task(attack())
    try:
        await client.flushall()

        async def are_back() -> bool:
            now = await read_all(client)
            return all(now.get(key) == state for key, state in before.items())

        await poll(are_back, "all bans, as they were", within_s=10)
        await poll(lambda: client.get(INTACT), "the mark")
    finally:
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
    again = name_users(1)[0]
    await enforcer.deny(again, 10)
    await wait_for_ban(client, again)
    assert any(line["event"] == "redis_rebuilt" for line in detector.lines())

    async def agree() -> bool:
        return (await run_rebuild(stack, "--verify"))[0] == 0

    await poll(agree, "Redis and the topic agree")


async def test_offence_on_an_emptied_redis_waits_for_what_was_held_before(
    detector: DetectorProcess, enforcer: Enforcer, client: Redis
) -> None:
    """Else it would be a first offence again, of a higher revision."""
    user = name_users(1)[0]
    await enforcer.deny(user, 10, at_ms=now_ms() - 70_000)
    await wait_for_ban(client, user)
    await client.flushall()
    await enforcer.deny(user, 10)
    state = await wait_for_ban(client, user, offences=2)
    assert (state.offences, state.bans[0].level) == (2, 4)


async def test_verify_tells_each_difference_and_changes_nothing_and_rebuild_mends_them(
    detector: DetectorProcess, enforcer: Enforcer, client: Redis, stack: RunningStack
) -> None:
    gone, changed, shortened, unknown = name_users(4)
    for user in (gone, changed, shortened):
        await enforcer.deny(user, 10)
    for user in (gone, changed, shortened):
        await wait_for_ban(client, user)

    async def agree() -> bool:
        return (await run_rebuild(stack, "--verify"))[0] == 0

    await poll(agree, "Redis and the topic agree")
    before = await read_all(client)
    await client.delete(name_abuse(gone))
    await client.set(name_abuse(changed), AbuseState(rev=1, score=5).model_dump_json(), keepttl=True)
    await client.pexpireat(name_abuse(shortened), before[name_abuse(shortened)][1] - 1)
    await client.set(name_abuse(unknown), AbuseState(rev=1).model_dump_json())
    damaged = await read_all(client)
    code, text = await run_rebuild(stack, "--verify")
    assert code == 1
    assert await read_all(client) == damaged
    lines = text.splitlines()
    assert lines[-1].endswith("4 differences")
    told = dict(line.split(": ", 1) for line in lines[:-1])
    assert told.keys() == {gone, changed, shortened, unknown}
    assert told[gone].startswith("Redis holds nothing, the topic revision ")
    assert told[unknown] == "Redis holds a state, the topic none"
    expiry = before[name_abuse(shortened)][1]
    assert told[shortened] == f"Redis forgets it at {expiry - 1}, and should at {expiry}"

    code, text = await run_rebuild(stack)
    assert (code, text.rstrip().endswith(": 2 put back")) == (0, True)
    after = await read_all(client)
    assert (after[name_abuse(gone)], after[name_abuse(changed)]) == (before[name_abuse(gone)], before[name_abuse(changed)])
    await client.delete(name_abuse(unknown))


async def test_without_kafka_it_says_so(stack: RunningStack) -> None:
    command = [sys.executable, "-m", "detector", "rebuild", "--redis", stack.redis_url, "--kafka", "127.0.0.1:1"]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1, cwd=Path.cwd())
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "Kafka does not answer at 127.0.0.1:1" in err.decode()
