import os
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.state import ProcessId
from examples.running import Running, end_running, find_running, recorded


def write(folder: Path, name: str, process: ProcessId) -> Path:
    path = folder / f"{name}-{process.pid}.json"
    path.write_text(Running(name=name, process=process).model_dump_json())
    return path


def test_process_is_found_while_it_runs_and_forgotten_after(tmp_path: Path) -> None:
    with recorded(tmp_path / "running", "run"):
        (found,) = find_running(tmp_path / "running")
        assert (found.name, found.process.pid) == ("run", os.getpid())
    assert find_running(tmp_path / "running") == []
    assert list((tmp_path / "running").iterdir()) == []


@pytest.mark.parametrize("started_at_s", [1.0])
def test_file_of_a_killed_process_is_removed_even_if_its_pid_lives_again(tmp_path: Path, started_at_s: float) -> None:
    path = write(tmp_path, "run", ProcessId(pid=os.getpid(), started_at_s=started_at_s))
    assert find_running(tmp_path) == []
    assert not path.exists()


def test_file_that_is_none_of_ours_is_removed(tmp_path: Path) -> None:
    (tmp_path / "run-1.json").write_text("{")
    assert find_running(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert end_running(tmp_path / "missing") == []


def test_what_runs_is_ended_and_told(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = ProcessId.of(child.pid)
        assert process is not None
        write(tmp_path, "demo", process)
        assert [one.name for one in end_running(tmp_path)] == ["demo"]
        assert child.wait() == -15
