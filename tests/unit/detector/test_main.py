from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from detector.__main__ import EXIT_BAD_CONFIG, app

RULES = Path("config/rules.yaml")


def test_valid_rules_are_told_with_their_version_and_risks() -> None:
    result = CliRunner().invoke(app, ["check-rules", str(RULES)])
    assert result.exit_code == 0
    assert "1 rules" in result.stdout
    assert "warning: rule brute_force" in result.stderr


def test_invalid_rules_exit_with_1_and_a_line_for_each_problem(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.read_text().replace("threshold: 10", "threshold: ten").replace("window: 60s", "window: 60"))
    result = CliRunner().invoke(app, ["check-rules", str(file)])
    assert result.exit_code == 1
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == ["rules[0].threshold", "rules[0].window"]


def test_detector_does_not_start_on_invalid_rules(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", "--rules", str(tmp_path / "missing.yaml")])
    assert result.exit_code == EXIT_BAD_CONFIG
    assert "cannot be read" in result.stderr
