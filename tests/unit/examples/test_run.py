from pathlib import Path

import typer
from typer.testing import CliRunner

from devstack.state import StateFolder
from examples import run
from examples.running import recorded


def invoke(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(run.main)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_stop_with_nothing_to_stop_is_no_error(tmp_path: Path) -> None:
    code, output = invoke("--stop", "--dir", str(tmp_path))
    assert code == 0
    assert "nothing runs" in output


def test_second_run_says_who_runs_and_what_to_do(tmp_path: Path) -> None:
    import os

    with StateFolder(tmp_path / run.RUN_FOLDER).owned() as is_owner, recorded(tmp_path / run.RUNNING_FOLDER, "run"):
        assert is_owner
        code, output = invoke("--dir", str(tmp_path))
    assert code == 1
    assert str(os.getpid()) in output
    assert "make stop" in output
