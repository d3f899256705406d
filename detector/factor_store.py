"""Redis, for the throttle: one script call per action and tick while anything is lowered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from detector.abuse_store import RedisAway
from detector.throttle import CLOSED, TICK_MS, TTL_MS
from lua.calls import run_script
from lua.keys import CHANGES_CHANNEL, FACTORS
from lua.scripts import SET_FACTOR

TAKEOVER_MS = TTL_MS - 3 * TICK_MS
"""What is left of a factor that its owner has not renewed for three ticks: then another detector may set it."""
_UNLOWERED = 1000


@dataclass(frozen=True, slots=True)
class InForce:
    """What is in force after a call.

    Attributes:
        now_ms: Redis time.
        is_ours: It is what was asked for; otherwise what another detector has set.
        factor: Per mille.
        probes: Per mille.
    """

    now_ms: int
    is_ours: bool
    factor: int
    probes: int


class FactorStore:
    """Throttle factors in Redis."""

    def __init__(self, client: Redis, owner: str) -> None:
        """Prepare.

        Args:
            client: Redis.
            owner: Names this run of this process among all; without spaces.
        """
        self._client = client
        self._owner = owner

    async def read(self, action: str) -> tuple[int, int]:
        """Give the factor and the probes in force, per mille; 1000 each where there are none.

        Raises:
            RedisAway: No answer.
        """
        try:
            stored = await cast("Any", self._client.hget(FACTORS, action))
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisAway(f"{type(error).__name__}: {error}") from error
        if stored is None:
            return _UNLOWERED, CLOSED
        factor, _, probes, _ = stored.split(b" ")
        return int(factor), int(probes)

    async def put(self, action: str, factor: int, probes: int) -> InForce:
        """Put a factor in force for ``TTL_MS``, unless another detector holds it. Idempotent.

        Raises:
            RedisAway: No answer. It may be in force; the next tick sets it anew.
        """
        arguments = [action, factor, probes, self._owner, TTL_MS, TAKEOVER_MS, CHANGES_CHANNEL, ""]
        try:
            answer = await run_script(self._client, SET_FACTOR, [FACTORS], arguments)
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisAway(f"{type(error).__name__}: {error}") from error
        now_ms, is_ours, factor_in_force, probes_in_force = answer
        return InForce(now_ms, bool(is_ours), factor_in_force, probes_in_force)
