"""Rules change while the detector runs: a file that is written, SIGHUP, a bad file, an exemption."""

from __future__ import annotations

import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.detector_under_test import DetectorProcess, Enforcer, poll, read_state, read_topic, run_detector, wait_for_ban
from topics.events import AbuseState, VerdictEvent

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHIPPED = Path("config/rules.yaml").read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def detector(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DetectorProcess]:
    folder = tmp_path_factory.mktemp("detector")
    rules = folder / "rules.yaml"
    rules.write_text(SHIPPED)
    process = DetectorProcess(kafka_bootstrap, redis_url, folder / "detector.log", rules=rules)
    async with run_detector(process):
        yield process


async def put_in_force(detector: DetectorProcess, text: str) -> None:
    """Write the file, and wait until the detector says that it goes by it."""
    known = len([line for line in detector.lines() if line["event"] == "rules_in_force"])
    detector.rules.write_text(text)

    async def look() -> bool:
        return len([line for line in detector.lines() if line["event"] == "rules_in_force"]) > known

    await poll(look, "rules_in_force")


async def read_verdicts(kafka: str, subject: str) -> list[VerdictEvent]:
    values = [value for key, value in await read_topic(kafka, "verdicts") if key == subject.encode()]
    return [VerdictEvent.model_validate_json(value) for value in values]


async def read_metrics(detector: DetectorProcess) -> str:
    async with aiohttp.ClientSession() as session, session.get(detector.metrics_url) as response:
        return await response.text()


async def test_exemption_that_comes_into_force_ends_the_ban_and_later_offences_come_to_nothing(
    detector: DetectorProcess, enforcer: Enforcer, redis: Redis
) -> None:
    name = f"mallory-{uuid.uuid4().hex[:8]}"
    subject = f"user={name}"
    await enforcer.deny(subject, 10)
    await wait_for_ban(redis, subject)
    exemption = f"{{ kind: user, value: {name}, reason: load test, actor: sre }}"
    await put_in_force(detector, SHIPPED.replace("\nrules:\n", f"\nallowlist: [{exemption}]\nrules:\n"))

    async def look_for_end() -> AbuseState | None:
        state = await read_state(redis, subject)
        return state if state and not state.bans else None

    state = await poll(look_for_end, "the end of the ban")
    await enforcer.deny(subject, 10)

    async def look_for_verdicts() -> list[VerdictEvent] | None:
        verdicts = await read_verdicts(detector.kafka, subject)
        return verdicts if len(verdicts) == 3 else None

    banned, lifted, exempted = await poll(look_for_verdicts, "three verdicts")
    assert (banned.penalty, banned.result) == ("ban", "applied")
    assert (lifted.penalty, lifted.actor, lifted.reason, lifted.rev) == ("lift", "sre", "load test", state.rev)
    assert (exempted.penalty, exempted.result, exempted.rule) == ("none", "exempt", "brute_force")
    assert exempted.rule_version != banned.rule_version
    assert await read_state(redis, subject) == state


async def test_windows_go_on_under_a_lower_threshold(detector: DetectorProcess, enforcer: Enforcer, redis: Redis) -> None:
    await put_in_force(detector, SHIPPED)
    subject = f"user=mallory-{uuid.uuid4().hex[:8]}"
    await enforcer.deny(subject, 6)
    await put_in_force(detector, SHIPPED.replace("threshold: 10\n", "threshold: 7\n"))
    await enforcer.deny(subject)
    await wait_for_ban(redis, subject)


async def test_bad_rules_leave_the_good_ones_in_force_and_are_told(
    detector: DetectorProcess, enforcer: Enforcer, redis: Redis
) -> None:
    await put_in_force(
        detector,
        SHIPPED.replace("threshold: 10\n", "threshold: 10\n    severity: low\n").replace("    severity: high\n", "", 1),
    )
    detector.rules.write_text(SHIPPED.replace("threshold: 10\n", "threshold: none\n"))

    async def look() -> dict[str, object] | None:
        lines = [line for line in detector.lines() if line["event"] == "rules_rejected"]
        return lines[-1] if lines else None

    line = await poll(look, "rules_rejected")
    assert "threshold: input should be a valid integer" in str(line["problems"])
    metrics = await read_metrics(detector)
    assert "ratchet_detector_rules_rejected_total 0.0" not in metrics
    assert f'ratchet_detector_rules_info{{version="{line["stays_in_force"]}"}} 1.0' in metrics
    subject = f"user=mallory-{uuid.uuid4().hex[:8]}"
    await enforcer.deny(subject, 10)
    await wait_for_ban(redis, subject)


async def test_hangup_reads_the_file_again(detector: DetectorProcess) -> None:
    detector.rules.write_text(SHIPPED.replace("threshold: 10\n", "threshold: nothing\n"))

    def count() -> int:
        return len([line for line in detector.lines() if line["event"] == "rules_rejected"])

    async def look_for_first() -> bool:
        return any("nothing" in str(line["problems"]) for line in detector.lines() if line["event"] == "rules_rejected")

    await poll(look_for_first, "the file was read")
    known = count()
    assert detector.process
    detector.process.send_signal(signal.SIGHUP)

    async def look_for_second() -> bool:
        return count() > known

    await poll(look_for_second, "the file was read again")
