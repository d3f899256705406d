"""The command reads decisions from a file, judges them and tells; what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from detector.__main__ import app
from tests.unit.detector.test_refolding import T0
from topics.wire import DecisionEvent


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["backtest", "--rules", "config/rules.yaml", *options])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    events = [
        DecisionEvent(
            "a/0/1", seq, T0 + seq * 100, "mallory", "login", "login", "v", "deny", "limit", limits=("login:per_user",)
        )
        for seq in range(1, 11)
    ]
    events.append(DecisionEvent("a/0/1", 11, T0 + 2_000, "mallory", "login", "login", "v", "ban", "banned"))
    file = tmp_path / "decisions.jsonl"
    file.write_bytes(b"\n".join(map(msgspec.json.encode, events)) + b"\nno event\n")
    return file


def test_file_of_decisions_is_judged(log: Path) -> None:
    result = run("--file", str(log), "-o", "json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["records"], report["undecodable"], report["difference"]) == (11, 1, None)
    assert report["rules"]["brute_force"]["penalties"] == {"ban": 1}
    [verdict] = report["verdicts"]
    assert (verdict["subject"], verdict["ban_until_ms"]) == ("user=mallory", T0 + 1_000 + 60_000)


def test_people_read_a_table(log: Path) -> None:
    result = run("--file", str(log))
    assert result.exit_code == 0, result.output
    assert "brute_force" in result.stdout
    assert "9.09% of 11" in result.stdout
    assert "1 records are no events" in result.stdout
    assert "user=mallory" in result.stdout


def test_bad_input_is_said(tmp_path: Path, log: Path) -> None:
    assert run("--file", str(tmp_path / "none")).exit_code == 2
    assert "is neither a span such as 24h" in run("--from", "yesterday").output
    assert "is not before --to" in run("--from", "1h", "--to", "2h").output
    (tmp_path / "rules.yaml").write_text("version: 2")
    assert CliRunner().invoke(app, ["backtest", "--rules", str(tmp_path / "rules.yaml")]).exit_code == 2
    away = run("--kafka", "127.0.0.1:1")
    assert away.exit_code == 3
    assert "127.0.0.1:1" in away.output
