"""Scripts and commands off the decision path, through redis-py; its errors become one of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from lua import calls
from lua.scripts import Script

_TAKEN = "REQUEST "
"""What scripts call their error when a request id was used for another change."""


class RedisAway(Exception):  # noqa: N818 it says what is the case
    """Redis gave no answer, or refused the call. What was asked may have happened: repeat it under the same request id."""


class IdTaken(Exception):  # noqa: N818 it says what is the case
    """Another change was made under this request id. Nothing was changed; use a new id for a new change."""

    def __init__(self) -> None:
        super().__init__("another change was made under this request id; a retry repeats all of it, a new change has a new id")


async def run_script(redis: Redis, script: Script, keys: Sequence[str], arguments: Sequence[object]) -> Any:
    """Call one script; one that Redis does not know yet is sent along.

    Raises:
        RedisAway: As the script's header says whether it may be called again.
        IdTaken: The script knows its request by another change.
    """
    return await call_redis(calls.run_script(redis, script, keys, arguments))


async def call_redis(call: Any) -> Any:
    """Await one call of redis-py.

    Raises:
        RedisAway: It failed. What it asked for may have happened.
    """
    try:
        return await cast("Awaitable[Any]", call)
    except ResponseError as error:
        if str(error).startswith(_TAKEN):
            raise IdTaken from error
        raise RedisAway(f"Redis: {type(error).__name__}: {error}") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise RedisAway(f"Redis: {type(error).__name__}: {error}") from error
