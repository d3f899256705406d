"""Calling scripts through redis-py."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from lua.calls import run_script
from lua.scripts import RESTORE_STATE

STATE = b'{"v":1,"rev":7,"reason":"\xc3\xa4"}'


async def test_script_that_is_not_known_is_sent_along_and_arguments_arrive_as_they_are(redis_client: Redis) -> None:
    await redis_client.script_flush()
    arguments = ["user=a", STATE, 7, 2**42, "channel"]
    assert await run_script(redis_client, RESTORE_STATE, ["abuse:{user=a}"], arguments) == 1
    assert await redis_client.get("abuse:{user=a}") == STATE
    assert await redis_client.pexpiretime("abuse:{user=a}") == 2**42
    assert await run_script(redis_client, RESTORE_STATE, ["abuse:{user=a}"], arguments) == 0


async def test_error_of_the_script_is_raised_and_not_taken_for_an_unknown_script(redis_client: Redis) -> None:
    await redis_client.lpush("abuse:{user=b}", "foreign")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await run_script(redis_client, RESTORE_STATE, ["abuse:{user=b}"], ["user=b", STATE, 7, 2**42, "channel"])
