from __future__ import annotations

import re
import shutil
from pathlib import Path

from typer.testing import CliRunner

from detector.__main__ import EXIT_BAD_CONFIG, app

RULES = Path("config/rules.yaml")


def test_valid_rules_are_told_with_their_version_and_risks() -> None:
    result = CliRunner().invoke(app, ["check-rules", str(RULES)])
    assert result.exit_code == 0
    assert "6 rules" in result.stdout
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


def test_shipped_rules_pass_their_fixtures() -> None:
    result = CliRunner().invoke(app, ["test-rules"])
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("6 rules, every threshold pinned\n")


def test_fixtures_beside_a_user_s_own_rules_are_found_and_a_wrong_threshold_exits_with_1(tmp_path: Path) -> None:
    shutil.copytree("config/rules-fixtures", tmp_path / "mine-fixtures")
    rules = tmp_path / "mine.yaml"
    rules.write_text(RULES.read_text().replace("threshold: 10\n", "threshold: 11\n"))
    result = CliRunner().invoke(app, ["test-rules", "--rules", str(rules)])
    assert result.exit_code == 1
    assert "mine-fixtures/brute_force.yaml: 'the tenth refusal within a minute bans for a minute': expected" in result.stderr


def test_bad_fixtures_exit_with_2(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text("version: 2")
    result = CliRunner().invoke(app, ["test-rules", str(file)])
    assert result.exit_code == EXIT_BAD_CONFIG
    assert "version: input should be 1" in result.stderr


def test_rules_that_the_policies_cannot_feed_exit_with_1_and_the_line(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.read_text().replace("by: ip", "by: device", 1))
    result = CliRunner().invoke(app, ["check-rules", str(file), "--policies", "config/policies.yaml"])
    assert result.exit_code == 1
    assert re.fullmatch(
        r".*rules\.yaml:\d+: rules\[1\]\.by: 'device' is no subject of the policies; allowed: user, ip\n", result.stderr
    )


def test_users_whose_identity_is_authenticated_are_no_risk(tmp_path: Path) -> None:
    policies = tmp_path / "policies.yaml"
    text = Path("config/policies.yaml").read_text()
    policies.write_text(text.replace("    without_redis: local", "    without_redis: local\n    identity: authenticated"))
    result = CliRunner().invoke(app, ["check-rules", str(RULES), "--policies", str(policies)])
    assert (result.exit_code, result.stderr) == (0, "")


def test_schema_is_printed_as_it_is_shipped() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert (result.exit_code, result.output) == (0, Path("config/rules.schema.json").read_text())
