"""Redis, put back from topic ``subjects``: what is held against subjects outlives a Redis that was emptied.

A mark in Redis (``lua.keys.INTACT``) tells that it holds what the topic tells. Where the mark is missing, Redis was emptied:
nothing is applied until all is put back, for an offence that finds no state would begin one anew, and its higher revision
would hide the old one for good.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from detector.ladder import find_expiry_ms
from lua.address import open_client
from lua.calls import run_script
from lua.keys import CHANGES_CHANNEL, INTACT, name_abuse
from lua.scripts import RESTORE_STATE
from topics.errors import HistoryLost, KafkaUnavailable, TopicMissing
from topics.events import AbuseState
from topics.log import open_log
from topics.specs import SUBJECTS

log = structlog.get_logger("detector")

LOOK_EVERY_S = 0.5
IS_INTACT = b"1"
CALLS_AT_ONCE = 64


class _Told(msgspec.Struct):
    subject: str
    state: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Held:
    """What is held against one subject.

    Attributes:
        state: JSON of an ``AbuseState``, in the bytes that a script wrote.
        rev: Of the state.
        until_ms: End of its longest ban; 0 for none.
        expires_at_ms: When Redis may forget it.
    """

    state: bytes
    rev: int
    until_ms: int
    expires_at_ms: int


def read_held(state: bytes, *, keep_ms: int) -> Held:
    """Read a state. Pure.

    Args:
        state: JSON.
        keep_ms: For how long after all in it is over it is kept; as for ``AbuseStore``.

    Raises:
        ValidationError: It is no state.
    """
    known = AbuseState.model_validate_json(state)
    until_ms = max((ban.until_ms for ban in known.bans), default=0)
    return Held(state, known.rev, until_ms, find_expiry_ms(known) + keep_ms)


async def read_subjects(kafka: str, *, keep_ms: int, now_ms: int) -> dict[str, Held]:
    """Read topic ``subjects``: the state of the highest revision of each subject, without those that are forgotten by now.

    Raises:
        KafkaUnavailable: The broker does not answer, or went away.
        TopicMissing: There is no such topic.
        HistoryLost: It was compacted meanwhile; read it again.
    """
    told: dict[str, Held] = {}
    async with open_log(kafka, SUBJECTS.name) as topic:
        async for batch in topic.read(await topic.cut()):
            for record in batch:
                if record.value is None:
                    continue
                try:
                    event = msgspec.json.decode(record.value, type=_Told)
                    held = read_held(bytes(event.state), keep_ms=keep_ms)
                except (msgspec.DecodeError, ValidationError) as error:
                    log.warning("subject_unreadable", partition=record.partition, offset=record.offset, error=str(error))
                    continue
                before = told.get(event.subject)
                if before is None or before.rev < held.rev:
                    told[event.subject] = held
    return {subject: held for subject, held in told.items() if held.expires_at_ms > now_ms}


async def restore(client: Redis, states: Mapping[str, Held]) -> int:
    """Put states back, those with a ban in force first. Safe at any time: Redis keeps what has a higher revision.

    Returns:
        How many were put back.

    Raises:
        RedisError: Some are not put back. Call again with all of them.
    """

    async def put_back(subject: str, held: Held) -> int:
        arguments = [subject, held.state, held.rev, held.expires_at_ms, CHANGES_CHANNEL]
        try:
            return int(await run_script(client, RESTORE_STATE, [name_abuse(subject)], arguments))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            log.warning("subject_holds_foreign_data", subject=subject, error=str(error))
            return 0

    count = 0
    in_order = sorted(states.items(), key=lambda item: -item[1].until_ms)
    for start in range(0, len(in_order), CALLS_AT_ONCE):
        count += sum(await asyncio.gather(*(put_back(*item) for item in in_order[start : start + CALLS_AT_ONCE])))
    return count


async def compare(client: Redis, told: Mapping[str, Held], *, now_ms: int) -> list[str]:
    """Say where Redis differs from what the topic tells, one line each. Changes nothing.

    A detector or an admin at work may be one change ahead of the topic, for the milliseconds until it has told it.

    Raises:
        RedisError: No answer.
    """
    differences = []
    prefix, suffix = name_abuse("\0").encode().split(b"\0")
    held = {key[len(prefix) : -len(suffix)].decode() async for key in client.scan_iter(match=name_abuse("*"), count=1000)}
    for subject in sorted(held | told.keys()):
        state: Any = await client.get(name_abuse(subject)) if subject in held else None
        known = told.get(subject)
        if state is None and known and known.expires_at_ms > now_ms:
            differences.append(f"{subject}: Redis holds nothing, the topic revision {known.rev}")
        elif state is not None and known is None:
            differences.append(f"{subject}: Redis holds a state, the topic none")
        elif state is not None and known and state != known.state:
            differences.append(f"{subject}: Redis holds {state.decode()}, the topic {known.state.decode()}")
        elif state is not None and known:
            # A ruling keeps the expiry that it finds: later than the state says is right.
            expires_at_ms = await client.pexpiretime(name_abuse(subject))
            if 0 <= expires_at_ms < known.expires_at_ms:
                differences.append(f"{subject}: Redis forgets it at {expires_at_ms}, and should at {known.expires_at_ms}")
    return differences


async def run_once(redis: str, kafka: str, *, keep_ms: int, is_verify: bool) -> tuple[int, int, list[str]]:
    """Rebuild, or only compare.

    Returns:
        How many subjects the topic tells of, how many were put back, and, compared, the differences.

    Raises:
        KafkaUnavailable, TopicMissing, HistoryLost, RedisError: Not done, or in part. Calling again is safe.
    """
    now_ms = time.time_ns() // 1_000_000
    told = await read_subjects(kafka, keep_ms=keep_ms, now_ms=now_ms)
    async with open_client(redis) as client:
        if is_verify:
            return len(told), 0, await compare(client, told, now_ms=now_ms)
        return len(told), await restore(client, told), []


async def keep_intact(client: Redis, kafka: str, *, keep_ms: int) -> None:
    """Look twice a second whether Redis was emptied, and put back what was held. Until it is cancelled.

    Several processes may do so at once: what one has put back the other leaves alone.
    """
    has_told = False
    while True:
        try:
            if await client.get(INTACT) != IS_INTACT:
                await _rebuild(client, kafka, keep_ms=keep_ms)
            has_told = False
        except (RedisError, OSError, TimeoutError, KafkaUnavailable, TopicMissing, HistoryLost) as error:
            if not has_told:
                log.warning("redis_not_seen_to", error=f"{type(error).__name__}: {error}")
            has_told = True
        await asyncio.sleep(LOOK_EVERY_S)


async def _rebuild(client: Redis, kafka: str, *, keep_ms: int) -> None:
    # The name of this round, or of one that another process began: gone at the end, Redis was emptied once more meanwhile.
    await client.set(INTACT, secrets.token_hex(8), nx=True)
    mark = await client.get(INTACT)
    if mark == IS_INTACT:
        return
    started = time.monotonic()
    states = await read_subjects(kafka, keep_ms=keep_ms, now_ms=time.time_ns() // 1_000_000)
    restored = await restore(client, states)
    if await client.get(INTACT) == mark:
        await client.set(INTACT, IS_INTACT)
        log.warning("redis_rebuilt", known=len(states), restored=restored, seconds=round(time.monotonic() - started, 3))
