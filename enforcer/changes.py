"""Listen to what the scripts publish when they change what is held against a subject."""

from __future__ import annotations

import asyncio
import time

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from enforcer.refusals import Refusals
from lua.keys import CHANGES_CHANNEL

_RECONNECT_S = 0.2

log = structlog.get_logger(__name__)


class _Change(msgspec.Struct):
    subject: str


async def follow_changes(url: str, refusals: Refusals) -> None:
    """Drop remembered refusals of subjects that change, for as long as it runs. A lost message costs at most a second.

    Args:
        url: Redis, as for the store.
    """
    decode = msgspec.json.Decoder(_Change).decode
    while True:
        client = Redis.from_url(url)
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(CHANGES_CHANNEL)
                refusals.clear()  # what was published before this is unknown
                async for message in channel.listen():
                    try:
                        refusals.forget(decode(message["data"]).subject, time.monotonic())
                    except msgspec.DecodeError as error:
                        log.warning("change_undecodable", error=str(error))
        except (RedisError, OSError):
            await asyncio.sleep(_RECONNECT_S)  # the store says that Redis is away
        finally:
            await client.aclose()
