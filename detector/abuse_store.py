"""Redis, for the detector: one script call per offence."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from redis.asyncio import Redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from detector.ladder import Finding, Offence
from detector.rebuild import IS_INTACT
from detector.rules import Ladder
from lua.keys import CHANGES_CHANNEL, INTACT, name_abuse, name_verdict
from lua.scripts import APPLY_VERDICT

_PASSING = (BusyLoadingError, ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_PASSING_PREFIXES = ("BUSY", "OOM", "MISCONF", "NOREPLICAS", "UNKILLABLE", "LOADING", "MASTERDOWN")


class RedisAway(Exception):  # noqa: N818 - says what is the case
    """Redis gave no answer, or cannot write for now. The offence may have been applied: calling again is safe and needed."""


class OffenceRefused(Exception):  # noqa: N818 - says what is the case
    """The script cannot handle this subject's state. Calling again gives the same: set the record aside and go on."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Answer to one offence.

    Attributes:
        finding: What came of it, when it was first seen.
        state: The subject's state as it is now, as JSON of ``AbuseState``; empty when there is none.
        is_repeat: The finding was stored before.
    """

    finding: Finding
    state: bytes
    is_repeat: bool


def name_arguments(offence: Offence, ladder: Ladder, *, keep_ms: int, now_ms: int | None = None) -> tuple[list[str], list[str]]:
    """Give KEYS and ARGV of ``apply_verdict.lua``. Pure.

    Args:
        offence: What happened.
        ladder: What may follow.
        keep_ms: How long the finding is kept.
        now_ms: Time to use instead of Redis's; for tests alone.
    """
    keys = [name_abuse(offence.subject), name_verdict(offence.subject, offence.verdict_id)]
    arguments = [
        offence.subject,
        offence.verdict_id,
        offence.rule,
        " ".join(offence.scope),
        str(offence.at_ms),
        str(offence.start),
        "shadow" if offence.is_shadow else "enforce",
        str(ladder.half_life_ms),
        str(keep_ms),
        CHANGES_CHANNEL,
        "" if now_ms is None else str(now_ms),
        str(ladder.jitter),
    ]
    for rung in ladder.rungs:
        arguments += [rung.penalty, str(rung.duration_ms), str(rung.factor or 1000)]
    return keys, arguments


class AbuseStore:
    """What is held against subjects, in Redis."""

    def __init__(self, client: Redis, *, keep_ms: int) -> None:
        self._client = client
        self._keep_ms = keep_ms

    async def require_intact(self) -> None:
        """See that Redis holds what it held before.

        Raises:
            RedisAway: It was emptied and is not rebuilt yet, or does not answer. Apply nothing, and call again.
        """
        try:
            mark = await self._client.get(INTACT)
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisAway(f"{type(error).__name__}: {error}") from error
        if mark != IS_INTACT:
            raise RedisAway("Redis was emptied and is being rebuilt")

    async def apply(self, offence: Offence, ladder: Ladder) -> Applied:
        """Apply one offence, atomically and once: a repeat is answered with what came of it the first time.

        Args:
            offence: What happened.
            ladder: What may follow.

        Raises:
            RedisAway: No answer. Call again until there is one, before anything that comes after this offence.
            OffenceRefused: Redis holds something else under the subject's keys. Do not call again.
        """
        keys, arguments = name_arguments(offence, ladder, keep_ms=self._keep_ms)
        try:
            try:
                answer = await self._client.evalsha(APPLY_VERDICT.sha, len(keys), *keys, *arguments)
            except NoScriptError:
                answer = await self._client.eval(APPLY_VERDICT.source, len(keys), *keys, *arguments)
        except _PASSING as error:
            raise RedisAway(str(error)) from error
        except ResponseError as error:
            if str(error).startswith(_PASSING_PREFIXES):
                raise RedisAway(str(error)) from error
            raise OffenceRefused(f"apply_verdict of {offence.subject}: {error}") from error
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisAway(f"{type(error).__name__}: {error}") from error
        finding, state, is_repeat = answer
        return Applied(msgspec.json.decode(finding, type=Finding), state, bool(is_repeat))
