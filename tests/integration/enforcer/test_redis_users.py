"""The Redis users of docs/redis.md may do what the processes do, and nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from detector.abuse_store import AbuseStore
from lua.address import open_client
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, poll, run_enforcer
from tests.integration.lua.test_apply_verdict import LADDER, make_offence

PAGE = Path(__file__).parents[3] / "docs" / "redis.md"
USERS = ("ratchet-enforcer", "ratchet-detector")


@pytest.fixture
async def users(redis_client: Redis, redis_url: str) -> AsyncIterator[dict[str, str]]:
    """URL by name of each user, made as the page says."""
    lines = [line.split()[1:] for line in PAGE.read_text().splitlines() if line.startswith("user ")]
    for name, *rules in lines:
        await redis_client.execute_command("ACL", "SETUSER", name, "reset", *rules)  # type: ignore[no-untyped-call]
    await redis_client.acl_log_reset()
    place = redis_url.removeprefix("redis://").rpartition("@")[2]
    yield {name: f"redis://{name}:CHANGE-ME@{place}" for name, *_ in lines}
    for name, *_ in lines:
        await redis_client.acl_deluser(name)


async def test_processes_do_all_that_they_do(users: dict[str, str], redis_client: Redis, tmp_path: Path) -> None:
    options = ("--redis-timeout-ms", "1000")
    with run_enforcer(users["ratchet-enforcer"], NOWHERE, tmp_path, *options) as enforcer:
        enforcer.wait_for_redis()
        answers = [enforcer.check("mallory") for _ in range(6)]
        assert [(answer.outcome, answer.degraded) for answer in answers] == [(enforcer_pb2.OUTCOME_ALLOW, False)] * 5 + [
            (enforcer_pb2.OUTCOME_DENY, False)
        ]
        async with open_client(users["ratchet-detector"]) as client:
            store = AbuseStore(client, keep_ms=1000)
            applied = await store.apply(make_offence(at_ms=time.time_ns() // 1_000_000), LADDER)
            assert (applied.finding.result, applied.finding.penalty) == ("applied", "ban")
        poll(lambda: enforcer.check("mallory").outcome == enforcer_pb2.OUTCOME_BAN, "the ban")
        enforcer.stop()
        assert not [line for line in enforcer.lines if line["event"] == "redis_refused"]
    assert await redis_client.acl_log() == []


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "command",
    [("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("GET", "session:alice"), ("SET", "ratchet", "1"),
     ("SUBSCRIBE", "other"), ("ACL", "LIST"), ("SCRIPT", "FLUSH"), ("SHUTDOWN",)],
)  # fmt: skip
async def test_nothing_else_is_theirs(users: dict[str, str], user: str, command: tuple[str, ...]) -> None:
    async with open_client(users[user]) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command)  # type: ignore[no-untyped-call]


async def test_bucket_is_nothing_to_the_detector(users: dict[str, str]) -> None:
    async with open_client(users["ratchet-detector"]) as client:
        with pytest.raises(NoPermissionError):
            await client.get("rate_limit:{user=alice}:login:per_user")
