"""The command line of a simulation, on a recorded file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from enforcer.__main__ import app
from tests.unit.enforcer.builders import make_policies
from topics.wire import DecisionEvent, GapEvent

NOW_MS = 1_800_000_000_000
DOCUMENT = """
version: 1
subjects: [user]
policies:
  - name: default
    match: {{ action: "*" }}
    limits: [{{ name: per_user, per: [user], capacity: {}, refill: 1/1h }}]
"""
IN_FORCE = DOCUMENT.format(3)

Simulate = Callable[..., Result]


@pytest.fixture
def simulate(tmp_path: Path) -> Simulate:
    """Run it on ten requests of alice, three of which passed."""
    version = make_policies(IN_FORCE).version
    events: list[msgspec.Struct] = [
        DecisionEvent("a/0/1", seq, NOW_MS + seq * 10, "alice", "login", "default", version, outcome, reason)
        for seq in range(1, 11)
        for outcome, reason in [("allow", "ok") if seq <= 3 else ("deny", "limit")]
    ]
    events.append(GapEvent("a/0/1", ((11, 12),), NOW_MS, "buffer_full"))
    lines = [msgspec.json.encode(event) for event in [*events, events[0]]]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*lines, b"not JSON", b""]))
    (tmp_path / "in_force.yaml").write_text(IN_FORCE)

    def run(capacity: int, *options: str) -> Result:
        candidate = tmp_path / "candidate.yaml"
        candidate.write_text(DOCUMENT.format(capacity))
        given = options if "--file" in options else ("--file", str(tmp_path / "log.jsonl"), *options)
        return CliRunner().invoke(app, ["simulate", "--policies", str(candidate), *given])

    return run


def test_the_report_says_what_would_have_changed_for_whom_since_when(simulate: Simulate) -> None:
    result = simulate(1)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].startswith(
        "10 decisions, 2027-01-15 08:00:00Z to 2027-01-15 08:00:00Z, through candidate "
    )
    assert "2 decisions were dropped by enforcers and are missing" in result.output
    assert "1 records were read twice and count once" in result.output
    assert "1 records are no events" in result.output
    (policy,) = [line.split() for line in result.output.splitlines() if line.startswith("default")]
    assert policy == ["default", "10", "2", "(20.00%)", "0", "(0.00%)", "1", "7"]
    assert "users with refusals that were none: 1; users let pass more often: 0" in result.output
    (user,) = [line.split() for line in result.output.splitlines() if line.startswith("alice")]
    assert user == ["alice", "2", "2027-01-15", "08:00:00Z"]


def test_the_document_in_force_has_to_repeat_the_record(simulate: Simulate, tmp_path: Path) -> None:
    same = simulate(5, "--recorded", str(tmp_path / "in_force.yaml"))
    assert same.exit_code == 0, same.output
    assert "the document in force repeats 10 of 10 decisions (100.0000%)" in same.output
    (tmp_path / "in_force.yaml").write_text(DOCUMENT.format(4))
    other = simulate(5, "--recorded", str(tmp_path / "in_force.yaml"))
    assert other.exit_code == 0
    assert "repeats 0 of 0 decisions (none)" in other.output
    assert "not judged: 10 other document" in other.output


def test_the_report_is_one_json_object_on_request(simulate: Simulate) -> None:
    report = json.loads(simulate(5, "-o", "json").output)
    assert report["policies"]["default"]["now_allowed"] == 2
    assert report["users"]["alice"] == {"now_denied": 0, "now_allowed": 2, "first_ms": NOW_MS + 40}
    assert report["truth"] is None
    assert report["missing"] == 2


def test_only_decisions_of_the_time_that_is_asked_for_count(simulate: Simulate) -> None:
    report = json.loads(
        simulate(1, "-o", "json", "--from", "2027-01-15T08:00:00.020Z", "--to", "2027-01-15T08:00:00.050Z").output
    )
    assert report["decisions"] == 4
    assert simulate(1, "--to", "2000-01-01").output == "no decisions in that time\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "soon"), "'soon' is neither a span such as 24h nor a time such as 2026-11-24T12:00Z"),
        (("--from", "1h", "--to", "2h"), "--from 1h is not before --to 2h"),
        (("--file", "/nowhere/log.jsonl"), "/nowhere/log.jsonl: cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said(simulate: Simulate, options: tuple[str, ...], message: str) -> None:
    result = simulate(1, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_bad_candidate_is_refused_with_its_line(simulate: Simulate) -> None:
    result = simulate(0)
    assert result.exit_code == 2
    assert "candidate.yaml:7: policies[0].limits[0].capacity" in result.output


def test_kafka_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "in_force.yaml").write_text(IN_FORCE)
    options = ["simulate", "--policies", str(tmp_path / "in_force.yaml"), "--kafka", "127.0.0.1:1"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 3
    assert "127.0.0.1:1" in result.output
