"""A simulation over what a real enforcer wrote to a real Kafka."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import run_enforcer

DOCUMENT = """
version: 1
subjects: [user, ip]
policies:
  - name: sim
    match: {{ action: sim }}
    limits:
      - {{ name: per_ip, per: [ip], capacity: 40, refill: 40/1s }}
      - {{ name: per_user, per: [user], capacity: {capacity}, refill: 4/1s }}
  - {{ name: default, match: {{ action: "*" }}, limits: [] }}
# {mark}
"""


def test_the_document_in_force_repeats_what_an_enforcer_wrote_and_a_candidate_changes_it(
    redis_url: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    mark = uuid.uuid4().hex
    in_force, candidate = tmp_path / "in_force.yaml", tmp_path / "candidate.yaml"
    in_force.write_text(DOCUMENT.format(capacity=4, mark=mark))
    candidate.write_text(DOCUMENT.format(capacity=2, mark=mark))
    users = [f"{mark}-{number}" for number in range(5)]
    outcomes: Counter[int] = Counter()
    with run_enforcer(redis_url, kafka_bootstrap, tmp_path, policies=in_force.read_text()) as enforcer:
        enforcer.wait_for_redis()
        enforcer.wait_for_kafka()
        for number in range(600):
            user = users[number % len(users)]
            answer = enforcer.check(user, "sim", attributes={"ip": f"{mark[:8]}-{number % 3}"})
            outcomes[answer.outcome] += 1
        enforcer.wait_until_emitted()
    command = [
        *(sys.executable, "-m", "enforcer", "simulate", "--policies", str(candidate), "--recorded", str(in_force)),
        *("--kafka", kafka_bootstrap, "--from", "1h", "-o", "json"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr + run.stdout[-2000:]
    report = json.loads(run.stdout)
    truth = report["truth"]
    assert truth["judged"] + truth["not_judged"].get("cached", 0) + truth["not_judged"].get("degraded", 0) >= 600
    assert truth["differences"].get("unexplained", 0) == 0, truth
    assert truth["repeated"] >= truth["judged"] * 0.98
    mine = {name: changes for name, changes in report["users"].items() if name in users}
    assert outcomes[enforcer_pb2.OUTCOME_ALLOW] >= 20
    assert len(mine) == len(users), "each is refused more often, or later, with half the burst"
    assert all(changes["now_denied"] >= 1 for changes in mine.values())
