"""Redis for the admin API: what is held against subjects, and their buckets. Never on the path of a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import ValidationError
from redis.asyncio import Redis, RedisCluster

from enforcer.admin.ruling import KEEP_MS, Finding, Ruling
from enforcer.stores.redis_script import call_redis, run_script
from lua.keys import CHANGES_CHANNEL, name_abuse, name_verdict
from lua.scripts import APPLY_RULING, RESET_BUCKETS
from topics.events import AbuseState

KEYS_PER_SCAN = 1_000
"""What one SCAN looks at: under a millisecond of Redis, in which it decides nothing."""
KEYS_PER_PAGE = 100_000
"""How many keys a page of bans looks at before it is handed out as it is."""

_ABUSE_PATTERN = "abuse:{*}"


class StateUnreadable(Exception):  # noqa: N818 it says what is the case
    """Redis holds something else under the subject's key. Repeating does not help."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """Answer to one ruling."""

    finding: Finding
    state: bytes
    """JSON of the subject's ``AbuseState`` as it is now; empty when it is forgotten by now."""
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """What came of a reset."""

    at_ms: int
    """Redis time of the first call."""
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the subjects that something is held against."""

    states: tuple[tuple[str, AbuseState], ...]
    now_ms: int
    """Redis time."""
    next_place: str
    """Where the next page begins; empty after the last."""


def name_ruling_arguments(ruling: Ruling, *, now_ms: int | None = None) -> tuple[list[str], list[str]]:
    """Give KEYS and ARGV of ``apply_ruling.lua``. Pure.

    Args:
        ruling: What was decided.
        now_ms: Time to use instead of Redis's; for tests alone.
    """
    keys = [name_abuse(ruling.subject), name_verdict(ruling.subject, ruling.verdict_id)]
    arguments = [
        ruling.subject,
        ruling.verdict_id,
        ruling.penalty,
        " ".join(ruling.scope),
        str(ruling.duration_ms),
        ruling.digest,
        str(KEEP_MS),
        CHANGES_CHANNEL,
        "" if now_ms is None else str(now_ms),
    ]
    return keys, arguments


@dataclass(frozen=True, slots=True)
class SubjectStore:
    """What is held against subjects. Belongs to one event loop; every call waits at most for the client's timeout."""

    client: Redis

    async def rule(self, ruling: Ruling) -> Ruled:
        """Apply one ruling, atomically and once: a repeat is answered with what came of it the first time.

        Raises:
            RedisAway: No answer. Repeat it.
            IdTaken: Something else was changed under this id.
        """
        keys, arguments = name_ruling_arguments(ruling)
        finding, state, is_repeat = await run_script(self.client, APPLY_RULING, keys, arguments)
        return Ruled(msgspec.json.decode(finding, type=Finding), state, bool(is_repeat))

    async def reset(self, subject: str, tag: str, verdict_id: str, digest: str, buckets: Sequence[str]) -> Reset:
        """Fill buckets of one hash tag, atomically and once.

        Args:
            subject: Whose remembered refusals end, as ``kind=value``.
            tag: What stands in the braces of the buckets' keys.
            verdict_id: Names the change.
            digest: Of all that was asked for.
            buckets: Their keys.

        Raises:
            RedisAway: No answer. Repeat it.
            IdTaken: Something else was changed under this id.
        """
        keys = [name_verdict(tag, verdict_id), *buckets]
        arguments = [subject, digest, KEEP_MS, CHANGES_CHANNEL]
        finding, is_repeat = await run_script(self.client, RESET_BUCKETS, keys, arguments)
        return Reset(msgspec.json.decode(finding)["at_ms"], is_repeat=bool(is_repeat))

    async def read(self, subject: str) -> tuple[AbuseState | None, int]:
        """Read what is held against one subject, and Redis time in ms.

        Raises:
            RedisAway: No answer.
            StateUnreadable: Something else lies there.
        """
        raw = await call_redis(self.client.get(name_abuse(subject)))
        return _parse_state(subject, raw), await self._read_clock()

    async def list_held(self, place: str, count: int) -> Page:
        """Go through the subjects that something is held against.

        There is no index, so that a ban costs no more than the subject's own key: a page looks at up to ``KEYS_PER_PAGE`` keys
        of any kind, in slices of under a millisecond of Redis, and may be empty. A subject that is there all the while comes
        at least once over all pages, unless nodes of a Redis Cluster come or go.

        Args:
            place: Empty, or that of the page before.
            count: About how many subjects; a page ends with the slice that reaches it.

        Raises:
            RedisAway: No answer.
            StateUnreadable: Something else lies under a subject's key.
        """
        nodes = await self._list_nodes()
        number, cursor = map(int, place.split(":")) if place else (0, 0)
        found: list[tuple[str, AbuseState]] = []
        for _ in range(KEYS_PER_PAGE // KEYS_PER_SCAN):
            if number >= len(nodes):
                break
            cursor, keys = await self._scan(nodes[number], cursor)
            values = self.client.pipeline(transaction=False)
            for key in keys:
                values.get(key)
            for key, raw in zip(keys, await call_redis(values.execute()), strict=True):
                subject = key.decode().removeprefix("abuse:{").removesuffix("}")
                if (state := _parse_state(subject, raw)) is not None:
                    found.append((subject, state))
            if not cursor:
                number += 1
            if len(found) >= count:
                break
        place = f"{number}:{cursor}" if number < len(nodes) else ""
        return Page(tuple(found), await self._read_clock(), place)

    async def _list_nodes(self) -> list[Any]:
        """The masters of a Redis Cluster, in one order; of one server, None."""
        client: Any = self.client
        if not isinstance(client, RedisCluster):
            return [None]
        await call_redis(client.initialize())
        return sorted(client.get_primaries(), key=lambda node: str(node.name))

    async def _scan(self, node: Any, cursor: int) -> tuple[int, list[bytes]]:
        client: Any = self.client
        options = {"match": _ABUSE_PATTERN, "count": KEYS_PER_SCAN, "_type": "string"}
        if node is None:
            next_cursor, keys = await call_redis(client.scan(cursor, **options))
            return next_cursor, keys
        cursors, keys = await call_redis(client.scan(cursor, target_nodes=node, **options))
        return cursors[node.name], keys

    async def _read_clock(self) -> int:
        seconds, micros = await call_redis(self.client.time())
        return int(seconds) * 1000 + int(micros) // 1000

    async def close(self) -> None:
        """Disconnect."""
        await self.client.aclose()


def _parse_state(subject: str, raw: bytes | None) -> AbuseState | None:
    if raw is None:
        return None
    try:
        return AbuseState.model_validate_json(raw)
    except ValidationError as error:
        raise StateUnreadable(f"what lies under {name_abuse(subject)} is no state: {error.error_count()} faults") from error
