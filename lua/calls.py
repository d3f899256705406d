"""Call scripts through redis-py; the hot path has its own way (``enforcer.stores.store``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from lua.scripts import Script


async def run_script(client: Redis, script: Script, keys: Sequence[str], arguments: Sequence[object]) -> Any:
    """Call one script by its SHA; one that Redis does not know yet is sent along.

    Args:
        client: Of one server or of a cluster.
        script: What to call.
        keys: As its header names them, all in one slot.
        arguments: As its header names them; what is not bytes is written as text.

    Returns:
        As its header says.

    Raises:
        redis.exceptions.RedisError: No answer, or an error of the script. Whether it may be called again its header says.
    """
    words = [argument if isinstance(argument, bytes) else str(argument) for argument in arguments]
    try:
        return await cast("Any", client.evalsha(script.sha, len(keys), *keys, *words))
    except NoScriptError:  # it had no effect
        return await cast("Any", client.eval(script.source, len(keys), *keys, *words))
