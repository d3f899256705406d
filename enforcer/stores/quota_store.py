"""Redis for quotas: how a limit's shares are divided among enforcers, and word of when to ask again. Off the hot path."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from enforcer.stores.redis_script import RedisAway, call_redis, run_script
from lua.address import open_client, parse_address
from lua.keys import CHANGES_CHANNEL, QUOTAS_CHANNEL, name_shared_bucket, name_shares
from lua.scripts import SHARE_QUOTA

_RECONNECT_S = 0.2

log = structlog.get_logger(__name__)


class ShareRequest(msgspec.Struct, frozen=True):
    """What one enforcer asks of one limit and subject; see ``lua/share_quota.lua``."""

    bucket_key: str
    demand: int
    quantum: int


class _Change(msgspec.Struct):
    subject: str


@dataclass(slots=True)
class QuotaStore:
    """Asks for shares, and listens. Its connections are opened by the first call: who has no data planes has none."""

    url: str
    member: str
    """Who asks: the source of the process, new with each start."""
    timeout_s: float = 1.0
    _client: Redis | None = None
    _listener: asyncio.Task[None] | None = field(default=None)

    async def ask(self, requests: Sequence[ShareRequest], ttl_ms: int) -> list[int] | None:
        """Ask for this enforcer's share of each limit, millionths; idempotent. None: Redis did not answer in time."""
        if not requests:
            return []
        client = self._client
        if client is None:
            client = self._client = open_client(self.url, socket_timeout=self.timeout_s)
        keys = [name_shares(request.bucket_key) for request in requests]
        arguments = [(self.member, request.demand, request.quantum, ttl_ms, QUOTAS_CHANNEL, "") for request in requests]
        try:
            # The first goes alone: it brings the script where Redis does not know it.
            granted = [await run_script(client, SHARE_QUOTA, keys[:1], arguments[0])]
            if parse_address(self.url).cluster:
                rest = zip(keys[1:], arguments[1:], strict=True)
                granted += [await run_script(client, SHARE_QUOTA, [key], argument) for key, argument in rest]
            else:
                pipeline = client.pipeline(transaction=False)
                for key, argument in zip(keys[1:], arguments[1:], strict=True):
                    pipeline.evalsha(SHARE_QUOTA.sha, 1, key, *argument)
                granted += await call_redis(pipeline.execute())
        except RedisAway as error:
            log.warning("quota_shares_unavailable", error=str(error))
            return None
        return [int(each) for each in granted]

    def listen(self, on_change: Callable[[str], None]) -> None:
        """Listen, from the first call until ``close``. A lost message costs at most a reporting interval.

        Args:
            on_change: Takes the name of a subject that something else is held against, as ``kind=value``, or the key of a
                limit's bucket whose shares other enforcers changed.
        """
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen(on_change))

    async def _listen(self, on_change: Callable[[str], None]) -> None:
        decode = msgspec.json.Decoder(_Change).decode
        while True:
            client = open_client(self.url)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CHANGES_CHANNEL, QUOTAS_CHANNEL)
                    async for message in channel.listen():
                        if message["channel"].decode() == QUOTAS_CHANNEL:
                            member, _, key = message["data"].decode().partition(" ")
                            if member != self.member:
                                on_change(name_shared_bucket(key))
                            continue
                        with contextlib.suppress(msgspec.DecodeError):  # enforcer.changes says so
                            on_change(decode(message["data"]).subject)
            except (RedisError, OSError):
                await asyncio.sleep(_RECONNECT_S)  # the store says that Redis is away
            finally:
                await client.aclose()

    async def leave(self, bucket_keys: Sequence[str]) -> None:
        """Give back all shares; the others hear of it. Where Redis does not answer they run out."""
        if self._client is None or not bucket_keys:
            return
        with contextlib.suppress(RedisAway):
            for key in bucket_keys:
                await call_redis(self._client.hdel(name_shares(key), self.member))
                await call_redis(self._client.publish(QUOTAS_CHANNEL, f"{self.member} {name_shares(key)}"))

    async def close(self) -> None:
        """Close the connections."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
        if self._client is not None:
            await self._client.aclose()
