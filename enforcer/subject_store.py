"""Redis for the admin API: what is held against subjects, and their buckets. Never on the path of a check."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import msgspec
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from enforcer.ruling import KEEP_MS, Finding, Ruling
from lua.keys import CHANGES_CHANNEL, name_abuse, name_verdict
from lua.scripts import APPLY_RULING, RESET_BUCKETS, Script
from topics.events import AbuseState

KEYS_PER_SCAN = 1_000
"""What one SCAN looks at: under a millisecond of Redis, in which it decides nothing."""
KEYS_PER_PAGE = 100_000
"""How many keys a page of bans looks at before it is handed out as it is."""

_ABUSE_PATTERN = "abuse:{*}"


class RedisAway(Exception):  # noqa: N818 it says what is the case
    """Redis gave no answer, or cannot write for now. The change may have been made: repeat it under the same request id."""


class StateUnreadable(Exception):  # noqa: N818 it says what is the case
    """Redis holds something else under the subject's key. Repeating does not help."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """Answer to one ruling."""

    finding: Finding
    state: bytes
    """JSON of the subject's ``AbuseState`` as it is now; empty when it is forgotten by now."""
    is_repeat: bool


class Reset(msgspec.Struct, frozen=True):
    """What came of a reset."""

    digest: str
    at_ms: int
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the subjects that something is held against."""

    states: tuple[tuple[str, AbuseState], ...]
    now_ms: int
    """Redis time."""
    cursor: int
    """Where the next page begins; 0 after the last."""


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
        """
        keys, arguments = name_ruling_arguments(ruling)
        async with _turning_errors():
            finding, state, is_repeat = await self._call(APPLY_RULING, keys, arguments)
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
        """
        keys = [name_verdict(tag, verdict_id), *buckets]
        async with _turning_errors():
            finding, is_repeat = await self._call(RESET_BUCKETS, keys, [subject, digest, str(KEEP_MS), CHANGES_CHANNEL])
        found = msgspec.json.decode(finding, type=Reset)
        return Reset(found.digest, found.at_ms, is_repeat=bool(is_repeat))

    async def _call(self, script: Script, keys: Sequence[str], arguments: Sequence[str]) -> Sequence[bytes]:
        try:
            answer: Sequence[bytes] = await self.client.evalsha(script.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            answer = await self.client.eval(script.source, len(keys), *keys, *arguments)
        return answer

    async def read(self, subject: str) -> tuple[AbuseState | None, int]:
        """Read what is held against one subject, and Redis time in ms.

        Raises:
            RedisAway: No answer.
            StateUnreadable: Something else lies there.
        """
        async with _turning_errors():
            raw = await self.client.get(name_abuse(subject))
            now_ms = await self._read_clock()
        return _parse_state(subject, raw), now_ms

    async def list_held(self, cursor: int, count: int) -> Page:
        """Go through the subjects that something is held against.

        There is no index, so that a ban costs no more than the subject's own key: a page looks at up to ``KEYS_PER_PAGE`` keys
        of any kind, in slices of under a millisecond of Redis, and may be empty. A subject that is there all the while comes
        at least once over all pages.

        Args:
            cursor: 0, or that of the page before.
            count: About how many subjects; a page ends with the slice that reaches it.

        Raises:
            RedisAway: No answer.
            StateUnreadable: Something else lies under a subject's key.
        """
        found: list[tuple[str, AbuseState]] = []
        async with _turning_errors():
            for _ in range(KEYS_PER_PAGE // KEYS_PER_SCAN):
                cursor, keys = await self.client.scan(cursor, match=_ABUSE_PATTERN, count=KEYS_PER_SCAN, _type="string")
                for key, raw in zip(keys, await self.client.mget(keys) if keys else (), strict=True):
                    subject = cast("bytes", key).decode().removeprefix("abuse:{").removesuffix("}")
                    if (state := _parse_state(subject, raw)) is not None:
                        found.append((subject, state))
                if not cursor or len(found) >= count:
                    break
            now_ms = await self._read_clock()
        return Page(tuple(found), now_ms, cursor)

    async def _read_clock(self) -> int:
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def close(self) -> None:
        """Disconnect."""
        await self.client.aclose()


def _parse_state(subject: str, raw: bytes | str | None) -> AbuseState | None:
    if raw is None:
        return None
    try:
        return AbuseState.model_validate_json(raw)
    except ValidationError as error:
        raise StateUnreadable(f"what lies under {name_abuse(subject)} is no state: {error.error_count()} faults") from error


@asynccontextmanager
async def _turning_errors() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise RedisAway(f"Redis: {error or type(error).__name__}") from error
