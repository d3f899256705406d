"""Scripts and commands off the decision path, through redis-py; its errors become one of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from lua.scripts import Script


class RedisAway(Exception):  # noqa: N818 it says what is the case
    """Redis gave no answer, or refused the call. What was asked may have happened: repeat it under the same request id."""


async def run_script(redis: Redis, script: Script, keys: Sequence[str], arguments: Sequence[object]) -> Any:
    """Call one script; one that Redis does not know yet is sent along.

    Raises:
        RedisAway: As the script's header says whether it may be called again.
    """
    try:
        return await call_redis(redis.evalsha(script.sha, len(keys), *keys, *[str(argument) for argument in arguments]))
    except RedisAway as error:
        if not isinstance(error.__cause__, NoScriptError):
            raise
    return await call_redis(redis.eval(script.source, len(keys), *keys, *[str(argument) for argument in arguments]))


async def call_redis(call: Any) -> Any:
    """Await one call of redis-py.

    Raises:
        RedisAway: It failed. What it asked for may have happened.
    """
    try:
        return await cast("Awaitable[Any]", call)
    except (RedisError, OSError, TimeoutError) as error:
        raise RedisAway(f"{type(error).__name__}: {error}") from error
