"""Listen to what the scripts publish when they change what is held against a subject."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog
from redis.exceptions import RedisError

from enforcer.decisions.decision import Ban
from enforcer.decisions.fallback import Fallback
from enforcer.decisions.refusals import Refusals
from lua.address import open_listener
from lua.keys import CHANGES_CHANNEL

_RECONNECT_S = 0.2

log = structlog.get_logger(__name__)


class _Ban(msgspec.Struct):
    until_ms: int
    level: int
    rule: str
    verdict_id: str
    scope: tuple[str, ...]


class _State(msgspec.Struct):
    bans: tuple[_Ban, ...] = ()
    """Latest end first."""


class _Change(msgspec.Struct):
    subject: str = ""
    """Empty when policies were registered, or a throttle factor has changed."""
    state: _State | None = None
    """What is held against the subject now; None when that has not changed."""
    revision: int = 0
    """Of the overrides, when one of the subject was changed."""


async def follow_changes(url: str, refusals: Refusals, fallback: Fallback, look: Callable[[], None]) -> None:
    """Let what is remembered of a subject end when the subject changes, for as long as it runs.

    A lost message costs at most a second of refusals, and while Redis is away the bans that it told of.

    Args:
        url: Redis, as for the store.
        refusals: What is certain for a second: that of the subject is forgotten.
        fallback: What holds while Redis is away: it learns the subject's longest ban, or that none is left.
        look: Called when policies were registered, or an override or a throttle factor was changed: it is time to ask what
            is in force.
    """
    decode = msgspec.json.Decoder(_Change).decode
    while True:
        client = open_listener(url)
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(CHANGES_CHANNEL)
                refusals.clear()  # what was published before this is unknown
                async for message in channel.listen():
                    try:
                        change = decode(message["data"])
                    except msgspec.DecodeError as error:
                        log.warning("change_undecodable", error=str(error))
                        continue
                    if change.revision or not change.subject:
                        look()
                    refusals.forget(change.subject, time.monotonic())
                    if change.state is not None:
                        fallback.forget(change.subject)
                        for ban in change.state.bans[:1]:
                            fallback.remember(Ban(ban.until_ms, ban.level, ban.rule, ban.verdict_id, change.subject, ban.scope))
        except (RedisError, OSError):
            await asyncio.sleep(_RECONNECT_S)  # the store says that Redis is away
        finally:
            await client.aclose()
