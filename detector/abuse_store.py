"""Redis, for the detector: one script call per offence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from detector.allowlist import has_bans_to_end, identify_lift, make_lift_event
from detector.ladder import Finding, Offence
from detector.rebuild import IS_INTACT
from detector.rules import Exemption, Ladder
from lua.calls import run_script
from lua.keys import CHANGES_CHANNEL, INTACT, name_abuse, name_verdict
from lua.scripts import APPLY_RULING, APPLY_VERDICT, Script
from topics.events import AbuseState, VerdictEvent

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


@dataclass(frozen=True, slots=True)
class Lifted:
    """Ended bans of one exempt subject.

    Attributes:
        verdict: What there is to tell.
        state: The subject's state as it is now, as JSON of ``AbuseState``.
    """

    verdict: VerdictEvent
    state: bytes


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
        self.keep_ms = keep_ms
        """How long findings are kept, from the next offence on."""

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
        keys, arguments = name_arguments(offence, ladder, keep_ms=self.keep_ms)
        finding, state, is_repeat = await self._run(APPLY_VERDICT, offence.subject, keys, arguments)
        return Applied(msgspec.json.decode(finding, type=Finding), state, bool(is_repeat))

    async def end_bans(self, subject: str, exemption: Exemption) -> Lifted | None:
        """End the bans that rules have imposed on an exempt subject, once for the same bans.

        Returns:
            None where there is nothing to end.

        Raises:
            RedisAway: No answer. The bans may be ended: call again, or nobody is told.
            OffenceRefused: Redis holds something else under the subject's keys. Do not call again.
        """
        try:
            raw = await self._client.get(name_abuse(subject))
            seconds, micros = await self._client.time() if raw else (0, 0)
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisAway(f"{type(error).__name__}: {error}") from error
        if not raw:
            return None
        try:
            held = AbuseState.model_validate_json(raw)
        except ValidationError as error:
            raise OffenceRefused(f"what is held against {subject} is no state: {error.error_count()} faults") from error
        if not has_bans_to_end(held, int(seconds) * 1000 + int(micros) // 1000):
            return None
        verdict_id = identify_lift(subject, exemption, held)
        keys = [name_abuse(subject), name_verdict(subject, verdict_id)]
        # The name says all that there is to tell a repeat by.
        arguments = [subject, verdict_id, "lift", "", "0", verdict_id, str(self.keep_ms), CHANGES_CHANNEL, ""]
        finding, state, _ = await self._run(APPLY_RULING, subject, keys, arguments)
        at_ms = msgspec.json.decode(finding)["at_ms"]
        after = AbuseState.model_validate_json(state)
        return Lifted(make_lift_event(subject, exemption, verdict_id, after, at_ms), state)

    async def _run(self, script: Script, subject: str, keys: list[str], arguments: list[str]) -> list[Any]:
        try:
            answer = await run_script(self._client, script, keys, arguments)
        except _PASSING as error:
            raise RedisAway(str(error)) from error
        except ResponseError as error:
            if str(error).startswith(_PASSING_PREFIXES):
                raise RedisAway(str(error)) from error
            raise OffenceRefused(f"{script.name} of {subject}: {error}") from error
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisAway(f"{type(error).__name__}: {error}") from error
        return list(answer)
