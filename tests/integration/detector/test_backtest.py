"""Live equals replay: what a real detector decided about a real enforcer's refusals, found again in both topics."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from tests.detector_under_test import DetectorProcess, poll, read_topic
from tests.integration.enforcer.enforcer_under_test import run_enforcer
from topics.events import VerdictEvent

USERS = 6
POLICIES = Path("config/policies.yaml").read_text()


def look_back(kafka: str, topic: str, policies: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "detector", "backtest", "--rules", "config/rules.yaml", "--kafka", kafka]
    options = ["--topic", topic, "--policies", str(policies), "--from", "1h", "-o", "json"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    return report


async def test_replay_of_denials_has_the_same_ids_and_of_decisions_the_same_offences(
    redis_url: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    users = [f"{uuid.uuid4().hex[:10]}" for _ in range(USERS)]
    policies = tmp_path / "policies.yaml"
    policies.write_text(POLICIES)
    detector = DetectorProcess(kafka_bootstrap, redis_url, tmp_path / "detector.log")
    detector.start()
    try:
        await detector.wait_ready()
        with run_enforcer(redis_url, kafka_bootstrap, tmp_path, policies=POLICIES) as enforcer:
            enforcer.wait_for_redis()
            enforcer.wait_for_kafka()
            for number in range(20):
                for place, user in enumerate(users):
                    if number < 17 + place % 3:  # 12 to 14 refusals: one offence
                        enforcer.check(user, "login", attributes={"ip": f"10.1.{place}.{number % 2}"})
            enforcer.wait_until_emitted()

            async def find_live() -> dict[str, VerdictEvent] | None:
                values = [VerdictEvent.model_validate_json(value) for _, value in await read_topic(kafka_bootstrap, "verdicts")]
                found = {verdict.verdict_id: verdict for verdict in values if verdict.subject.removeprefix("user=") in users}
                return found if {verdict.subject for verdict in found.values()} == {f"user={user}" for user in users} else None

            live = await poll(find_live, "a verdict about each user")
    finally:
        detector.kill()

    again = [each for each in look_back(kafka_bootstrap, "denials", policies)["verdicts"] if each["verdict_id"] in live]
    assert {each["verdict_id"] for each in again} == live.keys()
    assert all(each["at_ms"] == live[each["verdict_id"]].at_ms for each in again)

    folded = look_back(kafka_bootstrap, "decisions", policies)
    mine = [each for each in folded["verdicts"] if each["subject"].removeprefix("user=") in users]
    assert sorted((each["subject"], each["rule"]) for each in mine) == sorted(
        (verdict.subject, verdict.rule) for verdict in live.values()
    )
    by_subject = {verdict.subject: verdict for verdict in live.values()}
    assert all(abs(each["at_ms"] - by_subject[each["subject"]].at_ms) <= 100 for each in mine), "within one flush"

    asked = next(verdict for verdict in live.values() if verdict.result == "applied")
    command = [sys.executable, "-m", "detector", "explain", asked.verdict_id, "--kafka", kafka_bootstrap, "-o", "json"]
    explained = json.loads(await asyncio.to_thread(subprocess.check_output, command))
    assert (explained["subject"], explained["counted"], explained["is_complete"]) == (asked.subject, asked.evidence.count, True)  # type: ignore[union-attr]
    assert explained["proofs"][-1]["offset"] == asked.evidence.offset  # type: ignore[union-attr]
    assert explained["one_event_earlier"] < explained["threshold"] == 10
