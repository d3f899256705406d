"""Supervised processes: order, restarts, endings, and that nothing outlives a killed supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from devstack.errors import DevstackError, ServiceFailedError
from devstack.process import Service, ServiceState, Supervisor, run_to_end

DEADLINE_S = 15.0
FOREVER = "import time; open('{name}', 'w').close(); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOREVER
WITH_CHILD = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); " + FOREVER

# A program that supervises two services, one with a child of its own, and tells all pids.
SUPERVISING = """
import asyncio, pathlib, sys
from functools import partial
sys.path.insert(0, {tests!r})
from test_process import FOREVER, WITH_CHILD, program, exists
from devstack.process import Supervisor

async def main(folder):
    services = [program("one", FOREVER, folder), program("two", WITH_CHILD, folder)]
    supervisor = Supervisor(services, logs=folder, folders=[folder / "data"])
    await supervisor.start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(pathlib.Path({folder!r})))
"""


async def exists(path: Path) -> bool:
    return path.exists()  # noqa: ASYNC240 one stat


def program(
    name: str, code: str, folder: Path, *, after: tuple[str, ...] = (), restart: bool = False, stop_grace_s: float = 5.0
) -> Service:
    """Describe a Python program that is ready once it made a file of its name."""
    return Service(
        name=name, argv=[sys.executable, "-c", code.format(name=name)], is_ready=partial(exists, folder / name), cwd=folder,
        after=after, restart=restart, stop_grace_s=stop_grace_s, ready_within_s=DEADLINE_S,
    )  # fmt: skip


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_services_start_after_what_they_need_and_end_before_it(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def note(state: ServiceState) -> None:
        seen.append((state.name, state.status))

    services = [program("api", FOREVER, tmp_path, after=("store",)), program("store", FOREVER, tmp_path)]
    supervisor = Supervisor(services, logs=tmp_path, on_change=note)
    await supervisor.start()
    assert [state.status for state in supervisor.states()] == ["ready", "ready"]
    pids = [state.pid for state in supervisor.states()]
    await supervisor.stop()
    assert seen.index(("store", "ready")) < seen.index(("api", "starting"))
    assert not any(is_running(pid) for pid in pids if pid is not None)
    assert [state.exit_code for state in supervisor.states()] == [-signal.SIGTERM] * 2


async def test_children_of_this_process_are_gone_after_stop(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    supervisor = Supervisor([program("one", WITH_CHILD, tmp_path)], logs=tmp_path)
    await supervisor.start()
    await supervisor.stop()
    after = {process.pid for process in psutil.Process().children(recursive=True)}
    assert after <= before  # no zombie, no guardian, no grandchild


async def test_a_service_that_ignores_its_stop_signal_is_killed(tmp_path: Path) -> None:
    supervisor = Supervisor([program("stubborn", STUBBORN, tmp_path, stop_grace_s=0.2)], logs=tmp_path)
    await supervisor.start()
    await supervisor.stop()
    (state,) = supervisor.states()
    assert (state.status, state.exit_code) == ("stopped", -signal.SIGKILL)


async def test_a_service_that_dies_is_started_again_and_counted(tmp_path: Path) -> None:
    supervisor = Supervisor([program("one", FOREVER, tmp_path, restart=True)], logs=tmp_path)
    await supervisor.start()
    first = supervisor.states()[0].pid
    await supervisor.kill("one")
    await until(lambda: supervisor.states()[0].status == "ready", "it was not started again")
    (state,) = supervisor.states()
    assert (state.restarts, state.pid != first) == (1, True)
    await supervisor.stop()


async def test_a_service_that_nobody_restarts_stays_down_visibly_until_restart(tmp_path: Path) -> None:
    supervisor = Supervisor([program("one", FOREVER, tmp_path)], logs=tmp_path)
    await supervisor.start()
    await supervisor.kill("one")
    (state,) = supervisor.states()
    assert (state.status, state.pid, state.exit_code) == ("exited", None, -signal.SIGKILL)
    with pytest.raises(DevstackError, match="one does not run"):
        supervisor.pause("one")
    await supervisor.restart("one")
    assert supervisor.states()[0].status == "ready"
    await supervisor.stop()


async def test_a_paused_service_can_be_stopped(tmp_path: Path) -> None:
    supervisor = Supervisor([program("one", FOREVER, tmp_path)], logs=tmp_path)
    await supervisor.start()
    pid = supervisor.states()[0].pid
    assert pid is not None
    supervisor.pause("one")
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "it was not paused")
    await supervisor.stop()
    assert supervisor.states()[0].exit_code == -signal.SIGTERM


async def test_a_failed_start_shows_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    broken = program("broken", "print('no such key: colour'); raise SystemExit(3)", tmp_path)
    supervisor = Supervisor([program("one", FOREVER, tmp_path), broken], logs=tmp_path)
    with pytest.raises(ServiceFailedError, match=r"broken ended with exit code 3(.|\n)*no such key: colour"):
        await supervisor.start()
    assert {state.status for state in supervisor.states()} <= {"stopped", "waiting"}


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = Service(name="missing", argv=["/no/such/program"], is_ready=partial(exists, tmp_path / "never"))
    with pytest.raises((ServiceFailedError, FileNotFoundError), match="/no/such/program"):
        await Supervisor([missing], logs=tmp_path).start()


async def test_what_runs_to_its_end_is_judged_by_its_exit_code(tmp_path: Path) -> None:
    await run_to_end([sys.executable, "-c", ""], log=tmp_path / "log")
    with pytest.raises(DevstackError, match="exit code 4"):
        await run_to_end([sys.executable, "-c", "raise SystemExit(4)"], log=tmp_path / "log")


class Supervising:
    """Another process that supervises two services, one with a child of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        code = SUPERVISING.format(tests=str(Path(__file__).parent), folder=str(folder))
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        self.guardian = self.find_guardian()

    def find_guardian(self) -> psutil.Process:
        (guardian,) = [one for one in psutil.Process(self.process.pid).children() if "watch" in one.cmdline()]
        return guardian

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def gone(self) -> None:
        await until(lambda: not any(is_running(one.pid) for one in self.family), f"left: {self.family}")

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for one in self.family:
            if one.is_running():
                one.kill()


@pytest.fixture
def supervising(tmp_path: Path) -> Iterator[Supervising]:
    started = Supervising(tmp_path)
    yield started
    started.close()


async def test_kill_9_of_the_supervisor_leaves_no_process_and_no_folder(supervising: Supervising) -> None:
    assert len(supervising.family) == 4  # two services, one child, the guardian
    supervising.kill()
    await supervising.gone()
    await until(lambda: not supervising.data.exists(), "the data folder was left")


async def test_kill_9_of_a_supervisor_whose_guardian_was_killed_leaves_nothing(supervising: Supervising) -> None:
    first = supervising.guardian
    first.kill()

    def is_replaced() -> bool:
        return any(
            one.pid != first.pid and "watch" in one.cmdline() for one in psutil.Process(supervising.process.pid).children()
        )

    await until(is_replaced, "the guardian was not replaced")
    supervising.kill()
    await supervising.gone()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children of a dead parent by itself")
async def test_kill_9_of_supervisor_and_guardian_at_once_leaves_no_service(tmp_path: Path) -> None:
    supervising = Supervising(tmp_path)
    try:
        os.kill(supervising.process.pid, signal.SIGSTOP)  # so that it cannot start another guardian
        supervising.guardian.kill()
        services = [one for one in psutil.Process(supervising.process.pid).children() if one != supervising.guardian]
        supervising.kill()
        await until(lambda: not any(is_running(one.pid) for one in services), "a service was left")
    finally:
        supervising.close()


async def test_ctrl_c_reaches_the_supervisor_alone(supervising: Supervising) -> None:
    own = os.getpgid(supervising.process.pid)
    assert all(os.getpgid(one.pid) != own for one in supervising.family)
    assert all(os.getsid(one.pid) != os.getsid(supervising.process.pid) for one in supervising.family)
