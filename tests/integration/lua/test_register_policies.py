"""Documents and their generations in a real Redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from config.document import DocumentError, parse_document
from enforcer.limits.bucket import UNREGISTERED, Generation
from enforcer.limits.policy_document import PoliciesDocument
from enforcer.reload.generations import (
    poll,
    publish_document,
    read_document,
    register_file,
    restore_document,
)
from lua.keys import CHANGES_CHANNEL
from tests.unit.enforcer.builders import POLICIES as DOCUMENT

REQUEST = "request-0123456789"
OLDER, NEWER = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
VERSION = parse_document(DOCUMENT, PoliciesDocument, name="policies.yaml").version


async def publish(redis: Redis, text: str = DOCUMENT, request_id: str = REQUEST) -> tuple[str, int, bool]:
    found = await publish_document(redis, text, request_id, "ann", "to test")
    assert found.is_document
    return found.version, found.generation.number, found.is_repeat


async def register(redis: Redis, version: str, occasion: str = "change", known: int = 0) -> tuple[str, int]:
    found = await register_file(redis, version, occasion, Generation(known, 0))  # type: ignore[arg-type]
    return found.version, found.generation.number


async def test_files_share_the_generation_of_their_version(redis_client: Redis) -> None:
    assert await register(redis_client, OLDER, "start") == (OLDER, 1)
    assert await register(redis_client, OLDER, "start") == (OLDER, 1)
    assert await register(redis_client, NEWER) == (NEWER, 2)
    assert await register(redis_client, NEWER) == (NEWER, 2)


async def test_file_that_comes_back_is_newer_than_what_it_replaces(redis_client: Redis) -> None:
    for number, version in enumerate((OLDER, NEWER, OLDER), 1):
        assert await register(redis_client, version, "start") == (version, number)


async def test_generation_tells_since_when_it_counts(redis_client: Redis) -> None:
    seconds, micros = await redis_client.time()
    before_us = seconds * 1_000_000 + micros
    first = await register_file(redis_client, OLDER, "start", UNREGISTERED)
    again = await register_file(redis_client, OLDER, "start", UNREGISTERED)
    assert before_us <= first.generation.since_us < before_us + 60_000_000
    assert again.generation == first.generation


async def test_published_document_wins_over_files_that_were_registered_before_it(redis_client: Redis) -> None:
    await register(redis_client, OLDER)
    assert await publish(redis_client) == (VERSION, 2, False)
    assert await register(redis_client, OLDER, "start") == (VERSION, 2)
    found = await read_document(redis_client)
    assert found is not None
    assert (found[0], found[1].number) == (DOCUMENT, 2)


async def test_file_that_changes_or_is_new_wins_over_a_document_published_before(redis_client: Redis) -> None:
    await register(redis_client, OLDER)
    await publish(redis_client)
    assert await register(redis_client, NEWER, "start") == (NEWER, 3)
    assert await register(redis_client, OLDER) == (OLDER, 4)


async def test_file_with_the_text_of_the_document_counts_as_registered_with_it(redis_client: Redis) -> None:
    await publish(redis_client)
    assert await register(redis_client, VERSION, "start") == (VERSION, 1)
    later = DOCUMENT + "\n# later\n"
    version, number, _ = await publish(redis_client, later, REQUEST + "2")
    assert await register(redis_client, VERSION, "start") == (version, number)


async def test_repeated_request_registers_nothing(redis_client: Redis) -> None:
    assert await publish(redis_client) == (VERSION, 1, False)
    await register(redis_client, NEWER)
    assert await publish(redis_client) == (VERSION, 1, True)
    assert (await poll(redis_client, NEWER, "one/0/boot")).generation.number == 2
    assert await publish(redis_client, request_id=REQUEST + "2") == (VERSION, 3, False)


async def test_bad_document_is_refused_whole(redis_client: Redis) -> None:
    with pytest.raises(DocumentError) as refused:
        await publish(redis_client, DOCUMENT.replace("capacity: 30", "capacity: 0"))
    assert refused.value.problems[0].startswith("document:")
    assert "policies[0].limits[0].capacity" in refused.value.problems[0]
    assert await redis_client.keys() == []


async def test_redis_that_was_emptied_gives_a_newer_generation_and_the_document_back(redis_client: Redis) -> None:
    restored = await restore_document(redis_client, VERSION, DOCUMENT, Generation(41, 0))
    assert restored.generation.number == 42
    assert (await restore_document(redis_client, VERSION, DOCUMENT, Generation(41, 0))).generation == restored.generation
    found = await read_document(redis_client)
    assert found == (DOCUMENT, restored.generation)


async def test_registrations_are_published(redis_client: Redis) -> None:
    async with redis_client.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(CHANGES_CHANNEL)
        await register(redis_client, OLDER)
        message = None
        while message is None:
            message = await channel.get_message(timeout=10)
        assert message["data"] == b'{"generation":1}'
