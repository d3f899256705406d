"""Overrides made at run time: other terms for one subject and limit, until a time. Kept in Redis, off the decision path."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from config.document import parse_duration_us
from enforcer.limits.bucket import Terms, TermsOutOfRange
from enforcer.limits.policy import Policies
from enforcer.reload.generations import REQUEST_KEPT_MS
from enforcer.stores.redis_script import IdTaken, call_redis, run_script
from lua.keys import (
    CHANGES_CHANNEL,
    OVERRIDES,
    OVERRIDES_ENDS,
    OVERRIDES_REVISION,
    OVERRIDES_REVISIONS,
    name_request,
)
from lua.scripts import CHANGE_OVERRIDE

MOST_OVERRIDES = 100_000
"""Each costs Redis and every enforcer about half a kilobyte."""
_PAGE = 200
"""Read at once: well under a millisecond of Redis, and of whoever reads."""

_REFILL = re.compile(r"(\d{1,12})/(\d{1,9}(?:us|ms|s|m|h|d))")


class OverrideRefused(ValueError):  # noqa: N818 it says what is the case
    """The override cannot be. Nothing has changed; the message says what is allowed."""


class OverrideUnknown(LookupError):  # noqa: N818 it says what is the case
    """There is no such override. Nothing has changed."""


class Target(NamedTuple):
    """What an override is for."""

    subject: str
    """``kind=value``, as :func:`lua.keys.name_subject` writes it."""
    policy: str
    limit: str


class RunTimeOverride(msgspec.Struct, frozen=True, omit_defaults=True):
    """One override, as it is stored."""

    subject: str
    policy: str
    limit: str
    capacity: int
    """Most tokens."""
    refill: str
    """Tokens per time, as in policies.yaml: ``5/1m``."""
    until_ms: int
    """When it ends, milliseconds since the epoch."""
    reason: str
    actor: str
    since_ms: int = 0
    """When it was made, milliseconds since the epoch."""

    @property
    def target(self) -> Target:
        """What it is for."""
        return Target(self.subject, self.policy, self.limit)

    def compile_terms(self) -> Terms:
        """Turn the terms into the script's units.

        Raises:
            OverrideRefused: They are none, or cannot be counted exactly.
        """
        found = _REFILL.fullmatch(self.refill)
        if found is None or int(found[1]) == 0 or self.capacity < 1:
            raise OverrideRefused(
                f"capacity {self.capacity} and refill {self.refill!r} are no terms; write a capacity of 1 or more and a "
                "refill of tokens/time, as in 5/1m"
            )
        try:
            return Terms.of(self.capacity, int(found[1]), parse_duration_us(found[2]))
        except (TermsOutOfRange, ValueError) as error:
            raise OverrideRefused(str(error)) from error


class Changed(NamedTuple):
    """An override that was set, or removed (None), and the revision at which it was."""

    target: Target
    override: RunTimeOverride | None
    revision: int


class Result(NamedTuple):
    """What came of a change."""

    revision: int
    """Of the overrides; one more with every change."""
    is_repeat: bool
    """The request was made before, and changed nothing this time."""
    at_ms: int
    """Redis time of the change."""
    override: RunTimeOverride | None
    """What was set, when the request was first made; None: removed."""


def check_target(policies: Policies, target: Target) -> None:
    """Find the limit that an override is for.

    Raises:
        OverrideRefused: The document in force has no such limit, or the limit is not about such subjects.
    """
    policy = next((policy for policy in policies if policy.name == target.policy), None)
    if policy is None:
        names = ", ".join(sorted(policy.name for policy in policies)[:20])
        raise OverrideRefused(f"there is no policy {target.policy!r}; there are: {names}")
    limit = next((limit for limit in policy.limits if limit.name == target.limit), None)
    if limit is None:
        names = ", ".join(limit.name for limit in policy.limits) or "none"
        raise OverrideRefused(f"policy {target.policy} has no limit {target.limit!r} in force; it has: {names}")
    kind = target.subject.partition("=")[0]
    if kind not in limit.per:
        raise OverrideRefused(f"limit {limit.label} is per {', '.join(limit.per) or 'nobody'}, not per {kind}")


async def set_override(redis: Redis, override: RunTimeOverride, request_id: str, policies: Policies) -> Result:
    """Give one subject other terms for one limit; in force on every enforcer within a second. Replaces what was set before.

    Atomic, and idempotent by ``request_id`` for a day.

    Args:
        redis: Any client of the enforcers' Redis.
        override: What to set; ``since_ms`` is filled in from Redis time.
        request_id: Chosen by the caller, unique for each change.
        policies: In force; must have the limit.

    Raises:
        OverrideRefused: It cannot be, or there are ``MOST_OVERRIDES`` already.
        IdTaken: The request was another change.
        RedisAway: No answer. It may be in force: repeat it with the same id, with no other.
    """
    override.compile_terms()
    check_target(policies, override.target)
    seconds, micros = await call_redis(redis.time())
    now_ms = seconds * 1000 + micros // 1000
    if override.until_ms <= now_ms:
        raise OverrideRefused(f"until_ms is {override.until_ms}, which has passed: Redis says it is {now_ms}")
    override = msgspec.structs.replace(override, since_ms=now_ms)
    return await _change(redis, override.target, msgspec.json.encode(override).decode(), override.until_ms, request_id)


async def remove_override(redis: Redis, target: Target, request_id: str) -> Result:
    """Give one subject the terms of the document back; in force on every enforcer within a second.

    Atomic, and idempotent by ``request_id`` for a day.

    Raises:
        OverrideUnknown: There is none.
        IdTaken: The request was another change.
        RedisAway: No answer. It may be removed: repeat it with the same id, with no other.
    """
    return await _change(redis, target, "", 0, request_id)


async def _change(redis: Redis, target: Target, override: str, until_ms: int, request_id: str) -> Result:
    keys = [OVERRIDES, OVERRIDES_REVISIONS, OVERRIDES_ENDS, OVERRIDES_REVISION, name_request(request_id)]
    arguments = [
        " ".join(target),
        override,
        until_ms,
        target.subject,
        MOST_OVERRIDES,
        CHANGES_CHANNEL,
        REQUEST_KEPT_MS,
    ]
    result, revision, is_repeat, at_ms, first = await run_script(redis, CHANGE_OVERRIDE, keys, arguments)
    if result == _UNKNOWN:
        raise OverrideUnknown(f"{target.subject} has no override of limit {target.policy}:{target.limit}")
    if result == _FULL:
        raise OverrideRefused(f"there are {MOST_OVERRIDES} overrides, which is the most; remove one, or let one end")
    changed = msgspec.json.decode(first, type=RunTimeOverride) if first else None
    if (changed is None) != (not override):
        raise IdTaken
    return Result(revision, bool(is_repeat), at_ms, changed)


_UNKNOWN, _FULL = 1, 2


async def list_overrides(redis: Redis) -> list[RunTimeOverride]:
    """List what is in force, oldest change first; at most ``MOST_OVERRIDES``.

    Raises:
        RedisAway: No answer; may be called again.
    """
    seconds, micros = await call_redis(redis.time())
    now_ms = seconds * 1000 + micros // 1000
    found = [changed.override async for changed in read_changed(redis, 0)]
    return [override for override in found if override is not None and override.until_ms > now_ms]


async def find_overrides(redis: Redis, targets: Sequence[Target]) -> list[RunTimeOverride]:
    """Find those in force of some targets, in their order.

    Raises:
        RedisAway: No answer; may be called again.
    """
    if not targets:
        return []
    seconds, micros = await call_redis(redis.time())
    now_ms = seconds * 1000 + micros // 1000
    values = await call_redis(redis.hmget(OVERRIDES, [" ".join(target) for target in targets]))
    found = [msgspec.json.decode(value, type=RunTimeOverride) for value in values if value is not None]
    return [override for override in found if override.until_ms > now_ms]


async def read_changed(redis: Redis, after: int) -> AsyncIterator[Changed]:
    """Read what changed after a revision, in the order of the changes, some at a time so that Redis is never held up.

    Of an override that changed twice only the last change is told.

    Raises:
        RedisAway: No answer; may be called again, from the last revision that was read.
    """
    while True:
        page = await call_redis(
            redis.zrange(OVERRIDES_REVISIONS, f"({after}", "+inf", byscore=True, offset=0, num=_PAGE, withscores=True)
        )
        if not page:
            return
        values = await call_redis(redis.hmget(OVERRIDES, [field for field, _ in page]))
        for (field, revision), value in zip(page, values, strict=True):
            override = None if value is None else msgspec.json.decode(value, type=RunTimeOverride)
            yield Changed(Target(*field.decode().split(" ")), override, int(revision))
        after = int(page[-1][1])
