"""``python -m devstack`` as a person and a script use it, on a folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from devstack.cli import app
from devstack.state import StateFolder

DEADLINE_S = 20.0


class Shell:
    """Runs the commands on one folder: ``up`` in a process of its own, the others in this one, which is faster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def up(self) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "devstack", "up", "--dir", str(self.folder), "--only", "redis"]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def run(self, command: str, *options: str) -> Result:
        return CliRunner().invoke(app, [command, "--dir", str(self.folder), *options])

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return told


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path / "stack")
    yield shell
    shell.run("down")


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline, f"some of {pids} are left"
        time.sleep(0.02)


def test_up_tells_addresses_that_work_and_down_leaves_nothing(shell: Shell) -> None:
    first = shell.up()
    assert first.returncode == 0, first.stderr
    told = shell.status()
    assert (told["is_up"], told["is_ready"]) == (True, True)
    redis_url = told["addresses"]["redis_url"]
    assert redis_url in first.stdout
    with Redis.from_url(redis_url) as client:
        assert client.ping()
    redis = told["services"]["redis"]
    assert Path(redis["log"]).exists()

    again = shell.up()
    assert again.returncode == 0
    assert "up already" in again.stdout
    assert shell.status()["services"]["redis"]["pid"] == redis["pid"]

    assert shell.run("down").exit_code == 0
    wait_until_gone(told["supervisor_pid"], redis["pid"])
    assert not (shell.folder / "data").exists()
    assert shell.run("status").exit_code == 1
    assert shell.run("down").stdout == "The stack was not up.\n"


def test_a_taken_port_is_told_and_another_one_used(shell: Shell, tmp_path: Path) -> None:
    other = Shell(tmp_path / "other")
    try:
        assert other.up().returncode == 0
        second = shell.up()
        assert "Port 6379 was taken, so redis is on " in second.stdout
        assert shell.status()["is_ready"]
    finally:
        other.run("down")


def test_a_part_that_died_is_not_ready(shell: Shell) -> None:
    shell.up()
    pid = shell.status()["services"]["redis"]["pid"]
    psutil.Process(pid).kill()
    wait_until_gone(pid)
    status = shell.run("status", "--json")
    assert status.exit_code == 1
    told = json.loads(status.stdout)
    assert (told["is_up"], told["is_ready"], told["services"]["redis"]["is_ready"]) == (True, False, False)


def test_kill_9_of_the_supervisor_leaves_nothing_and_up_works_again(shell: Shell) -> None:
    shell.up()
    told = shell.status()
    psutil.Process(told["supervisor_pid"]).kill()
    wait_until_gone(told["supervisor_pid"], told["services"]["redis"]["pid"])
    assert shell.run("status").exit_code == 1
    assert shell.up().returncode == 0
    assert shell.status()["is_ready"]


def test_down_ends_what_a_killed_supervisor_and_guardian_left(shell: Shell) -> None:
    shell.up()
    state = StateFolder(shell.folder).read()
    assert state is not None
    supervisor = psutil.Process(state.supervisor.pid)
    guardians = [child for child in supervisor.children() if "watch" in child.cmdline()]
    supervisor.suspend()  # so that it cannot start another guardian
    for process in (*guardians, supervisor):
        process.kill()
    wait_until_gone(supervisor.pid)
    assert shell.run("down").exit_code == 0
    wait_until_gone(*(process.pid for process in state.processes))
    assert not (shell.folder / "data").exists()


def test_a_start_that_fails_says_why_and_leaves_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_SERVER", "/no/such/server")
    result = shell.up()
    assert result.returncode == 1
    assert "REDIS_SERVER is /no/such/server" in result.stderr
    assert shell.run("status").exit_code == 1


def test_a_state_that_cannot_be_understood_is_an_error_not_a_traceback(shell: Shell) -> None:
    shell.folder.mkdir()
    (shell.folder / "state.json").write_text("{}")
    result = shell.run("status")
    assert result.exit_code == 1
    assert "cannot be understood" in result.stderr
    (shell.folder / "state.json").unlink()
