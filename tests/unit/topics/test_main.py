from __future__ import annotations

from pathlib import Path

import pytest

from topics.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tail nope", "unknown topic 'nope': one of decisions, denials, outcomes, verdicts, subjects, dead_letters"),
        ("tail decisions --outcome maybe", "--outcome 'maybe' is none of allow, deny, ban"),
        ("tail verdicts --outcome deny", "--outcome does not apply to verdicts, which knows --rule, --subject, --user"),
        ("tail verdicts --subject alice", "--subject 'alice' is not of the form kind=value, as in user=alice"),
        ("tail decisions --since 5x", "'5x' is not a span of time such as 90s, 10m, 2h or 7d"),
        ("tail decisions --since 5m --from-beginning", "--since and --from-beginning exclude each other"),
        ("tail decisions --limit 0", "Invalid value for '--limit': "),
        ("tail decisions --colour red", "No such option: --colour"),
        ("tail", "Missing argument 'topic'"),
        ("audit verdicts", "cannot audit 'verdicts': events are numbered in decisions, denials and outcomes alone"),
        ("audit decisions --bootstrap nowhere", "'nowhere' is not host:port"),
        ("audit decisions --bootstrap a:1,b:70000", "'b:70000' is not host:port"),
        ("ensure --wait -1", "Invalid value for '--wait': "),
        ("ensure --wait soon", "Invalid value for '--wait': "),
        ("explain alice", "No such command 'explain'"),
    ],
)
def test_a_wrong_command_line_gives_one_line_and_exit_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    assert main(arguments.split()) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_wrong_address_in_the_environment_is_named_as_such(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "broker")
    assert main(["ensure"]) == 2
    assert "KAFKA_BOOTSTRAP" in capsys.readouterr().err


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "--help"]) == 0
    assert "--from-beginning" in capsys.readouterr().out


def test_schemas_are_written_where_they_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schemas", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "topic.decisions.json").exists()
    assert "schemas to" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["schemas", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write to" in capsys.readouterr().err
