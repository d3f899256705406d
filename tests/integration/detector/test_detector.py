"""The detector as a process, on real Redis and Kafka: denials in, bans and their audit out."""

from __future__ import annotations

import base64
import json
import signal
import uuid

import aiohttp
import pytest
from redis.asyncio import Redis

from lua.keys import CHANGES_CHANNEL, name_abuse
from tests.detector_under_test import DetectorProcess, Enforcer, now_ms, poll, read_state, read_topic, wait_for_ban
from topics.events import SubjectEvent, VerdictEvent

pytestmark = pytest.mark.asyncio(loop_scope="module")


def name_user(prefix: str = "mallory") -> str:
    return f"user={prefix}-{uuid.uuid4().hex[:8]}"


async def read_verdicts(kafka: str, subject: str) -> list[VerdictEvent]:
    values = [value for key, value in await read_topic(kafka, "verdicts") if key == subject.encode()]
    return [VerdictEvent.model_validate_json(value) for value in values]


async def test_ten_denials_within_a_minute_ban_for_a_minute_and_are_told(
    detector: DetectorProcess, enforcer: Enforcer, redis: Redis
) -> None:
    user, bystander = name_user(), name_user("alice")
    at_ms = now_ms()
    await enforcer.deny(bystander, 9, at_ms=at_ms)
    for number in range(10):
        await enforcer.deny(user, at_ms=at_ms + number)
    state = await wait_for_ban(redis, user)
    [ban] = state.bans
    assert (ban.until_ms, ban.level, ban.rule, ban.scope) == (at_ms + 9 + 60_000, 3, "brute_force", ("login",))
    assert (state.score, state.offences, state.level) == (1000, 1, 3)

    async def look() -> list[VerdictEvent]:
        return await read_verdicts(detector.kafka, user)

    [verdict] = await poll(look, "the verdict")
    assert (verdict.verdict_id, verdict.result, verdict.penalty) == (ban.verdict_id, "applied", "ban")
    assert verdict.ban_until_ms == ban.until_ms
    assert verdict.evidence is not None
    assert (verdict.evidence.count, verdict.evidence.first_ms, verdict.evidence.n) == (
        10,
        at_ms,
        enforcer.numbers[enforcer.place(user)],
    )
    states = [value for key, value in await read_topic(detector.kafka, "subjects") if key == user.encode()]
    assert SubjectEvent.model_validate_json(states[-1]).state == state
    assert str(await redis.get(name_abuse(user))).encode() in states[-1]
    assert await read_state(redis, bystander) is None


async def test_second_offence_after_the_ban_is_punished_harder(enforcer: Enforcer, redis: Redis) -> None:
    user = name_user()
    at_ms = now_ms() - 100_000
    await enforcer.deny(user, 10, at_ms=at_ms)
    await enforcer.deny(user, 10, at_ms=at_ms + 30_000)  # during the ban
    await enforcer.deny(user, 10, at_ms=at_ms + 61_000)
    state = await wait_for_ban(redis, user, offences=2)
    assert [(ban.until_ms, ban.level) for ban in state.bans] == [(at_ms + 61_000 + 600_000, 4)]


async def test_doubled_records_are_one_strike(detector: DetectorProcess, enforcer: Enforcer, redis: Redis) -> None:
    user, marker = name_user(), name_user()
    writer = Enforcer(enforcer.producer, enforcer.partitions)
    for _ in range(3):
        await writer.deny(user, 5)
    await wait_for_ban(redis, user)
    await writer.repeat()
    await writer.repeat()
    while enforcer.place(marker) != enforcer.place(user):
        marker = name_user()
    await enforcer.deny(marker, 10)
    await wait_for_ban(redis, marker)
    state = await read_state(redis, user)
    assert state is not None
    assert (state.offences, state.score) == (1, 1000)
    assert [verdict.result for verdict in await read_verdicts(detector.kafka, user)] == ["applied"]


@pytest.mark.parametrize("value", [b"\xff\x00 no JSON", b'{"type":"folds","n":0}', b'{"type":"folds","v":9}', None])
async def test_undecodable_record_is_set_aside_and_the_next_one_counts(
    detector: DetectorProcess, enforcer: Enforcer, redis: Redis, value: bytes | None
) -> None:
    user = name_user()
    partition = enforcer.place(user)
    sent = await enforcer.producer.send_and_wait("denials", value, key=b"who", partition=partition)
    await enforcer.deny(user, 10)
    await wait_for_ban(redis, user)

    async def look() -> list[bytes]:
        origin = f"denials/{partition}/{sent.offset}".encode()
        return [letter for key, letter in await read_topic(detector.kafka, "dead_letters") if key == origin]

    [letter] = [json.loads(letter) for letter in await poll(look, "the dead letter")]
    assert base64.b64decode(letter["value_base64"]) == (value or b"")
    assert letter["error"]


async def test_subject_with_foreign_data_in_redis_harms_nobody_else(
    detector: DetectorProcess, enforcer: Enforcer, redis: Redis
) -> None:
    broken, user = name_user(), name_user()
    while enforcer.place(user) != enforcer.place(broken):
        user = name_user()
    await redis.rpush(name_abuse(broken), "not a string")
    await enforcer.deny(broken, 10)
    await enforcer.deny(user, 10)
    await wait_for_ban(redis, user)


async def test_change_is_published_to_enforcers(detector: DetectorProcess, enforcer: Enforcer, redis: Redis) -> None:
    user = name_user()
    async with redis.pubsub() as listener:
        await listener.subscribe(CHANGES_CHANNEL)
        await enforcer.deny(user, 10)

        async def look() -> dict[str, object] | None:
            message = await listener.get_message(ignore_subscribe_messages=True, timeout=0.1)
            change = json.loads(message["data"]) if message else {}
            return change if change.get("subject") == user else None

        change = await poll(look, "the change")
    assert change["state"] == json.loads(str(await redis.get(name_abuse(user))))


async def test_ban_comes_when_redis_is_back(detector: DetectorProcess, enforcer: Enforcer, redis: Redis) -> None:
    """CLIENT PAUSE holds every command back, as a Redis that hangs does; then the answer comes too late for the first call."""
    user = name_user()
    await redis.client_pause(6_000)
    await enforcer.deny(user, 10)
    await wait_for_ban(redis, user)
    state = await read_state(redis, user)
    assert state is not None
    assert state.offences == 1


async def test_operators_see_metrics_and_readiness(detector: DetectorProcess, enforcer: Enforcer) -> None:
    base = detector.metrics_url.removesuffix("/metrics")
    async with aiohttp.ClientSession() as session:

        async def look() -> str:
            async with session.get(f"{base}/metrics") as response:
                text = await response.text()
                return text if 'verdicts_total{result="applied",rule="brute_force"}' in text else ""

        text = await poll(look, "metrics")
        assert "ratchet_detector_missing_records_total 0.0" in text
        async with session.get(f"{base}/healthz") as response:
            assert response.status == 200

        async def is_ready() -> bool:
            async with session.get(f"{base}/readyz") as response:
                return response.status == 200

        await poll(is_ready, "readiness")


async def test_sigterm_ends_in_order(detector: DetectorProcess) -> None:
    assert await detector.end(signal.SIGTERM) == 0
    assert detector.lines()[-1]["event"] == "detector_stopped"
    assert not any("exception" in line for line in detector.lines())
