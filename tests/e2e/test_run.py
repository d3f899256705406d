"""``make run`` and ``make stop`` as processes: what they show, and that they leave nothing behind."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from examples.run import RUNNING_FOLDER
from examples.running import find_running
from examples.system import ROOT

WITHIN_S = 120.0

pytestmark = pytest.mark.timeout(400)


class Shell:
    """``python -m examples.run`` with its output, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def wait_for(self, is_wanted: Callable[[str], bool]) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line)
                if is_wanted(line):
                    return line
        raise AssertionError("it ended:\n" + "".join(self.lines))

    async def end(self) -> int:
        assert self.process.stdout is not None
        self.lines.append((await self.process.stdout.read()).decode())
        return await self.process.wait()


@asynccontextmanager
async def start_run(folder: Path, *options: str) -> AsyncIterator[Shell]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.run", "--dir", str(folder), *options,
        cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        limit=2**20,
    )  # fmt: skip
    shell = Shell(process)
    try:
        yield shell
    finally:
        if process.returncode is None:
            process.kill()
        await shell.end()


def processes_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def listening_ports(processes: list[psutil.Process]) -> set[int]:
    ports = set()
    for process in processes:
        ports |= {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    return ports


async def assert_gone(processes: list[psutil.Process], ports: set[int]) -> None:
    deadline = time.monotonic() + 20
    while left := [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)
    for port in ports:
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)


async def test_run_shows_the_abuser_banned_survives_its_detector_and_is_stopped_from_another_shell(tmp_path: Path) -> None:
    async with start_run(tmp_path) as shell:
        await shell.wait_for(lambda line: "first decision after" in line and "downloads" in line)
        assert any("kafka ready after" in line for line in shell.lines)
        line = await shell.wait_for(lambda line: "user=victim" in line)
        assert "brute_force" in line

        async with start_run(tmp_path) as second:
            assert await second.end() == 1
            assert "runs already" in "".join(second.lines)
            assert str(shell.process.pid) in "".join(second.lines)

        processes = processes_of(shell.process.pid)
        (detector,) = [one for one in processes if one.cmdline()[1:4] == ["-m", "detector", "run"]]
        detector.kill()
        await shell.wait_for(lambda line: "detector ended by itself" in line)
        await shell.wait_for(lambda line: "detector ready again" in line)

        processes = processes_of(shell.process.pid)
        ports = listening_ports(processes)
        assert len(ports) >= 8
        async with start_run(tmp_path, "--stop") as stop:
            assert await stop.end() == 0
            assert "ended: run" in "".join(stop.lines)
        assert await shell.end() == 0
        await assert_gone(processes, ports)
        assert not (tmp_path / "run" / "data").exists()
    async with start_run(tmp_path, "--stop") as stop:
        assert await stop.end() == 0
        assert "nothing runs" in "".join(stop.lines)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_run_that_is_interrupted_or_killed_while_it_starts_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    async with start_run(tmp_path) as shell:
        await shell.wait_for(lambda line: "redis ready" in line)
        processes = processes_of(shell.process.pid)
        ports = listening_ports(processes)
        os.kill(shell.process.pid, how)
        assert await shell.end() == (0 if how is signal.SIGINT else -how)
        await assert_gone(processes, ports)
    assert find_running(tmp_path / RUNNING_FOLDER) == []
