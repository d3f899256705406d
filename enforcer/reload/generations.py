"""Which policies document is in force, agreed upon in Redis: the one registered last, told apart by its generation.

An enforcer registers its file when it starts and when the file changes; an admin publishes a document to all enforcers. Off the
decision path.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from redis.asyncio import Redis

from config.document import parse_document
from enforcer.limits.bucket import UNREGISTERED, Generation
from enforcer.limits.policy import Policies
from enforcer.limits.policy_document import PoliciesDocument
from enforcer.stores.redis_script import call_redis, run_script
from lua.keys import CHANGES_CHANNEL, ENFORCERS, FACTORS, OVERRIDES_REVISION, POLICIES, POLICIES_FILES, name_request
from lua.scripts import POLL, REGISTER_POLICIES

Occasion = Literal["start", "change"]

REQUEST_KEPT_MS = 86_400_000
"""How long the request of an admin may be repeated."""
ALIVE_MS = 3_000
"""An enforcer that did not ask for so long is not counted."""
ABANDONED_MS = 10_000
"""When no enforcer that goes by the newest registration was seen for so long, another may register anew."""


class Registered(NamedTuple):
    """What came of a registration: what the caller goes by from now on."""

    version: str
    generation: Generation
    is_document: bool
    """An admin published it; ``read_document`` gives its text."""
    is_repeat: bool
    """The request was registered before, and changed nothing this time."""


class Factor(NamedTuple):
    """A throttle factor of one action, as the detector has set it."""

    action: str
    per_mille: int
    probes: int
    """Checks per mille that pass its circuit breaker; all of 1000 while that is closed."""
    until_ms: int


class State(NamedTuple):
    """What Redis says is in force. Numbers are 0, and the version is empty, where it knows nothing."""

    now_us: int
    """Redis time, microseconds since the epoch."""
    generation: Generation
    """Of the newest registration."""
    version: str
    document_generation: int
    """Of the last document that an admin published."""
    is_abandoned: bool
    """Another version than the caller's is the newest, and no enforcer goes by it."""
    revision: int
    """Of the last change of an override."""
    enforcers: int
    """Processes seen alive, the caller included."""
    factors: tuple[Factor, ...]


async def publish_document(redis: Redis, text: str, request_id: str, actor: str, reason: str) -> Registered:
    """Put a policies document in force on every enforcer, within a second.

    It is validated whole first. Atomic, and idempotent by ``request_id`` for a day.

    Args:
        redis: Any client of the enforcers' Redis.
        text: YAML, as in policies.yaml.
        request_id: Chosen by the caller, unique for each change.
        actor: Who publishes.
        reason: Why.

    Raises:
        DocumentError: The document is refused; nothing has changed.
        IdTaken: The request was another change.
        RedisAway: No answer. It may be in force: repeat it with the same id, with no other.
    """
    loaded = parse_document(text, PoliciesDocument, name="document")
    Policies.compile(loaded)
    return await _register(
        redis, "publish", loaded.version, text, UNREGISTERED, request_id=request_id, actor=actor, reason=reason
    )


async def register_file(redis: Redis, version: str, occasion: Occasion, known: Generation) -> Registered:
    """Register the file that an enforcer goes by, or would go by.

    Args:
        redis: A client.
        version: Of the file.
        occasion: ``start``: a document that an admin published later than this file was registered is answered instead.
            ``change``: the file wins.
        known: What the enforcer went by before; a new generation is above it, also in a Redis that was emptied.

    Raises:
        RedisAway: No answer; may be called again.
    """
    return await _register(redis, occasion, version, "", known)


async def restore_document(redis: Redis, version: str, text: str, known: Generation) -> Registered:
    """Register a document that was published before Redis lost it.

    Raises:
        RedisAway: No answer; may be called again.
    """
    return await _register(redis, "change", version, text, known)


async def _register(
    redis: Redis,
    occasion: str,
    version: str,
    document: str,
    known: Generation,
    *,
    request_id: str = "",
    actor: str = "",
    reason: str = "",
) -> Registered:
    keys = [POLICIES, POLICIES_FILES, name_request(request_id)]
    arguments = [occasion, version, document, known.number, actor, reason, CHANGES_CHANNEL, REQUEST_KEPT_MS]
    number, since_us, in_force, is_document, is_repeat = await run_script(redis, REGISTER_POLICIES, keys, arguments)
    return Registered(in_force.decode(), Generation(number, since_us), bool(is_document), bool(is_repeat))


async def read_document(redis: Redis) -> tuple[str, Generation] | None:
    """Read the last document that an admin published, and its generation; None when there is none.

    Raises:
        RedisAway: No answer; may be called again.
    """
    fields = ["document", "document_generation", "document_since_us"]
    text, number, since_us = await call_redis(redis.hmget(POLICIES, fields))
    if text is None:
        return None
    return text.decode(), Generation(int(number), int(since_us))


async def poll(redis: Redis, version: str, source: str) -> State:
    """Ask what is in force, and be seen alive.

    Args:
        redis: A client.
        version: Of the document that the enforcer goes by.
        source: Names the process.

    Raises:
        RedisAway: No answer; may be called again.
    """
    keys = [POLICIES, OVERRIDES_REVISION, FACTORS, ENFORCERS]
    reply = await run_script(redis, POLL, keys, [version, source, ALIVE_MS, ABANDONED_MS])
    now_us, number, since_us, newest, document_generation, is_abandoned, revision, enforcers, *rest = reply
    factors = zip(rest[0::4], rest[1::4], rest[2::4], rest[3::4], strict=True)
    return State(
        now_us,
        Generation(number, since_us),
        newest.decode(),
        document_generation,
        bool(is_abandoned),
        revision,
        enforcers,
        tuple(Factor(action.decode(), factor, probes, until_ms) for action, factor, probes, until_ms in factors),
    )


async def leave(redis: Redis, source: str) -> None:
    """Be counted no more.

    Raises:
        RedisAway: No answer; the others notice within ``ALIVE_MS``.
    """
    await call_redis(redis.zrem(ENFORCERS, source))
