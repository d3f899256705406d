"""The detector is killed, or stopped, in mid-stream: what it leaves must be what an undisturbed run would have left."""

from __future__ import annotations

import asyncio
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from config.document import read_document
from detector.ladder import judge
from detector.records import decode_denials
from detector.rules import Rules
from detector.shard import Shard
from detector.verdict import make_offence
from lua.keys import name_abuse
from tests.detector_under_test import (
    DetectorProcess,
    Enforcer,
    now_ms,
    open_enforcer,
    poll,
    read_topic,
    run_detector,
    wait_for_ban,
)
from topics.events import AbuseState, VerdictEvent
from topics.specs import DENIALS

RULES = read_document(Path("config/rules.yaml"), Rules).model
KEEP_MS = DENIALS.retention_ms + RULES.longest_penalty_ms


@pytest_asyncio.fixture
async def detector(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> AsyncIterator[DetectorProcess]:
    process = DetectorProcess(kafka_bootstrap, redis_url, tmp_path / "detector.log", instance="detector-1")
    async with run_detector(process):
        yield process


@pytest_asyncio.fixture
async def enforcer(detector: DetectorProcess) -> AsyncIterator[Enforcer]:
    async with open_enforcer(detector.kafka) as enforcer:
        yield enforcer


def predict(enforcer: Enforcer) -> tuple[dict[str, AbuseState], dict[str, int], set[str]]:
    """What an undisturbed run over the written records ends in: states, when they expire, and the ids of all verdicts."""
    states: dict[str, AbuseState] = {}
    expiries: dict[str, int] = {}
    verdicts: set[str] = set()
    shards = {number: Shard(number, RULES, {}, None) for number in range(enforcer.partitions)}
    for offset, (partition, value) in enumerate(enforcer.written):
        weighing = shards[partition].weigh(offset, decode_denials(value), taken_ms=0)
        for crossing in weighing.crossings:
            assert weighing.origin
            offence = make_offence(crossing, weighing.origin, RULES)
            verdicts.add(offence.verdict_id)
            ladder = RULES.find_ladder(crossing.watch.rule)
            judged = judge(states.get(offence.subject), offence, ladder, now_ms=offence.at_ms, keep_ms=KEEP_MS)
            if judged.state:
                states[offence.subject] = judged.state
            if judged.expires_at_ms:
                expiries[offence.subject] = judged.expires_at_ms
        shards[partition].accept(weighing)
    return states, expiries, verdicts


async def attack(enforcer: Enforcer, users: list[str], *, records: int, pause_s: float) -> None:
    """Interleaved denials of all users, some with old event times, so that some are banned twice."""
    choose = random.Random(4)
    for number in range(records):
        user = choose.choice(users)
        age_ms = 130_000 if number < records // 2 else 0
        await enforcer.deny(user, choose.choice((1, 1, 2, 3)), at_ms=now_ms() - age_ms)
        if number % 20 == 0:
            await enforcer.beat()
            await asyncio.sleep(pause_s)  # the attack takes its time, so that it is cut in the middle


@asynccontextmanager
async def beating(enforcer: Enforcer) -> AsyncIterator[None]:
    """Heartbeats every second, as every enforcer's: what follows a lost record shows the detector that it was lost."""

    async def beat() -> None:
        while True:
            await enforcer.beat()
            await asyncio.sleep(1.0)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def assert_undisturbed(detector: DetectorProcess, enforcer: Enforcer, client: Redis, users: list[str]) -> None:
    async with beating(enforcer):
        await assert_states_and_verdicts(detector, enforcer, client, users)


async def assert_states_and_verdicts(detector: DetectorProcess, enforcer: Enforcer, client: Redis, users: list[str]) -> None:
    states, expiries, verdicts = predict(enforcer)
    assert states

    async def look() -> bool:
        found = {user: await client.get(name_abuse(user)) for user in users}
        return found == {user: states[user].model_dump_json() if user in states else None for user in users}

    try:
        await poll(look, "the states of an undisturbed run")
    except AssertionError:
        for user in users:
            assert await client.get(name_abuse(user)) == (states[user].model_dump_json() if user in states else None)
        raise

    assert {user: await client.pexpiretime(name_abuse(user)) for user in expiries} == expiries

    async def tell() -> dict[str, set[bytes]]:
        told: dict[str, set[bytes]] = {}
        for key, value in await read_topic(detector.kafka, "verdicts"):
            if key is not None and key.decode() in users:
                told.setdefault(VerdictEvent.model_validate_json(value).verdict_id, set()).add(value)
        return told if told.keys() >= verdicts else {}

    try:
        told = await poll(tell, "all verdicts")
    except AssertionError:
        lines = {str(line["verdict_id"]): line for line in detector.lines() if line.get("subject") in users}
        assert lines.keys() == verdicts
        raise
    assert told.keys() == verdicts
    assert [len(values) for values in told.values()] == [1] * len(verdicts)  # told again, it is told in the same bytes
    applied: Counter[str] = Counter()
    for values in told.values():
        verdict = VerdictEvent.model_validate_json(next(iter(values)))
        applied[verdict.subject] += verdict.result in {"applied", "already_over"}
    assert applied == Counter({user: state.offences for user, state in states.items()})


@pytest.mark.timeout(180)
async def test_killed_in_mid_stream_it_bans_what_it_should_and_nothing_twice(
    detector: DetectorProcess, enforcer: Enforcer, redis_url: str
) -> None:
    users = [f"user=victim-{uuid.uuid4().hex[:8]}" for _ in range(30)]
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        attacking = asyncio.create_task(attack(enforcer, users, records=1000, pause_s=0.15))
        for due in (200, 600):

            async def is_due(due: int = due) -> bool:
                return sum(enforcer.numbers.values()) >= due

            await poll(is_due, f"{due} records")
            await detector.end(signal.SIGKILL)
            detector.start()
            await detector.wait_ready()
        await attacking
        await assert_undisturbed(detector, enforcer, client, users)


@pytest.mark.timeout(120)
async def test_stopped_and_started_it_goes_on_where_it_was(
    detector: DetectorProcess, enforcer: Enforcer, redis_url: str
) -> None:
    user, other = (f"user=victim-{uuid.uuid4().hex[:8]}" for _ in range(2))
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        await enforcer.deny(user, 9)
        await enforcer.deny(other, 10)
        await wait_for_ban(client, other)
        started = time.monotonic()
        assert await detector.end(signal.SIGTERM) == 0
        assert time.monotonic() - started < 10
        await enforcer.deny(user)
        detector.start()
        await wait_for_ban(client, user)
        await assert_undisturbed(detector, enforcer, client, [user, other])


@pytest.mark.timeout(180)
async def test_partitions_that_move_in_mid_stream_lose_and_double_nothing(
    detector: DetectorProcess, enforcer: Enforcer, redis_url: str, tmp_path: Path
) -> None:
    users = [f"user=victim-{uuid.uuid4().hex[:8]}" for _ in range(20)]
    second = DetectorProcess(detector.kafka, redis_url, tmp_path / "second.log", instance="detector-2")
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        attacking = asyncio.create_task(attack(enforcer, users, records=800, pause_s=0.4))
        try:
            second.start()
            await second.wait_ready()

            async def has_moved() -> bool:
                return any(line["event"] == "partition_taken" for line in second.lines())

            await poll(has_moved, "a partition of the second detector")
            assert await detector.end(signal.SIGTERM) == 0
            await attacking
            await assert_undisturbed(second, enforcer, client, users)
        finally:
            second.kill()


@pytest.mark.timeout(240)
async def test_three_workers_between_whom_partitions_move_end_as_one_that_is_left_alone(
    detector: DetectorProcess, enforcer: Enforcer, redis_url: str, tmp_path: Path
) -> None:
    users = [f"user=victim-{uuid.uuid4().hex[:8]}" for _ in range(30)]
    others = [
        DetectorProcess(detector.kafka, redis_url, tmp_path / f"{name}.log", instance=f"detector-{name}")
        for name in ("second", "third")
    ]
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        attacking = asyncio.create_task(attack(enforcer, users, records=1200, pause_s=0.4))
        try:
            for other in others:
                other.start()
            for other in others:
                await other.wait_ready()

            async def have_moved() -> bool:
                return all(any(line["event"] == "partition_taken" for line in other.lines()) for other in others)

            await poll(have_moved, "partitions of all three")
            # One is killed and comes back under its name, one leaves in order: partitions move, and move back.
            await others[0].end(signal.SIGKILL)
            assert await others[1].end(signal.SIGTERM) == 0
            others[0].start()
            await others[0].wait_ready()
            await attacking
            await assert_undisturbed(detector, enforcer, client, users)
        finally:
            for other in others:
                other.kill()
