"""The command line, as far as it needs no server."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from enforcer.__main__ import app


def test_good_policies_are_told_in_one_line() -> None:
    result = CliRunner().invoke(app, ["check-config", "config/policies.yaml"])
    assert result.exit_code == 0
    assert result.output.startswith("config/policies.yaml: version ")
    assert result.output.endswith(": 3 policies, 4 limits in force\n")


def test_bad_policies_exit_with_2_and_a_line_for_each_problem(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text("version: 2\nsubjects: [user]\npolicies: []\n")
    result = CliRunner().invoke(app, ["check-config", str(file)])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"{file}:1: version: input should be 1, not 2",
        f"{file}:3: policies: tuple should have at least 1 item after validation, not 0",
    ]


def test_absent_policies_exit_with_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check-config", str(tmp_path / "absent.yaml")])
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


def test_schema_is_printed_as_it_is_shipped() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert (result.exit_code, result.output) == (0, Path("config/policies.schema.json").read_text())
