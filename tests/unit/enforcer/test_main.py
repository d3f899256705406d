"""The command line, as far as it needs no server."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from enforcer.__main__ import app
from tests.unit.enforcer.builders import POLICIES


def test_good_policies_are_told_in_one_line() -> None:
    result = CliRunner().invoke(app, ["check-config", "config/policies.yaml"])
    assert result.exit_code == 0
    assert result.output.startswith("config/policies.yaml: version ")
    assert result.output.endswith(": 3 policies, 6 limits in force\n")


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


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--redis", "redis://h/first"], "a Redis URL ends in the number of a database, as in /0"),
        (["--tls-cert", "cert.pem"], "--tls-cert and --tls-key go together, and --tls-client-ca with them"),
        (["--tls-client-ca", "ca.pem"], "--tls-cert and --tls-key go together, and --tls-client-ca with them"),
        (["--tls-cert", "c", "--tls-key", "k", "--transport", "native"], "TLS needs --transport grpcio"),
        (["--tls-cert", "/nowhere/c", "--tls-key", "/nowhere/k"], "/nowhere/c: No such file or directory"),
        (["--access", "/nowhere/access.yaml"], "/nowhere/access.yaml: cannot be read"),
    ],
)
def test_bad_options_exit_with_2_before_anything_starts(options: list[str], problem: str) -> None:
    result = CliRunner(env={"TERMINAL_WIDTH": "400", "NO_COLOR": "1"}).invoke(app, ["run", *options])
    assert result.exit_code == 2
    assert problem in result.stderr


def test_what_changes_against_an_older_document_is_printed_and_is_exit_1(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(POLICIES)
    new.write_text(POLICIES.replace("capacity: 30, refill: 30/1m", "capacity: 20, refill: 20/1m"))
    result = CliRunner().invoke(app, ["check-config", str(new), "--diff", str(old)])
    assert result.exit_code == 1
    assert result.output.splitlines()[1:] == ["login:per_ip: tightened: capacity 30 refill 30/1m, now capacity 20 refill 20/1m"]
    result = CliRunner().invoke(app, ["check-config", str(old), "--diff", str(old)])
    assert (result.exit_code, result.output.splitlines()[1:]) == (0, [f"no check is decided otherwise than under {old}"])


def test_older_document_that_is_bad_is_told_as_such(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("version: 2\n")
    result = CliRunner().invoke(app, ["check-config", "config/policies.yaml", "--diff", str(old)])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == f"{old}:1: version: input should be 1, not 2"
