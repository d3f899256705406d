"""``make run``: the whole system with simulated traffic, shown live until Ctrl-C or ``make stop``.

The view knows nothing of the simulator: it reads the topics ``decisions`` and ``verdicts`` and the abuse keys in Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from aiokafka.errors import KafkaError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live

from devstack.errors import DevstackError
from devstack.state import StateFolder
from enforcer.client import NoDecision
from examples.live_view import name_commands, show_everything, show_line
from examples.observed import Observed
from examples.running import end_running, find_running, recorded
from examples.start_report import StartReport
from examples.system import ROOT, System, SystemAddresses, SystemSpec
from examples.targets import open_witness
from examples.topic_reader import TopicReader
from lua.keys import name_abuse
from topics.events import AbuseState

FOLDER = ROOT / ".devstack"
RUN_FOLDER = "run"
RUNNING_FOLDER = "running"

REFRESH_S = 0.5
LINE_EVERY_S = 5.0
ABUSE_EVERY_S = 0.5
FIRST_DECISION_WITHIN_S = 10.0

_CONSOLE = Console(width=None if Console().is_terminal else 160)


async def run(folder: Path, console: Console) -> None:
    """Run the system with traffic and show it, until the task is cancelled.

    Args:
        folder: Where logs stay; data is removed at the end.
        console: A terminal gets tables, anything else a line now and then.

    Raises:
        DevstackError: Something could not start; nothing runs then.
    """
    console.print("Ratchet: Redis, Kafka, Envoy, two enforcers, the detector, a backend and traffic", soft_wrap=True)
    report = StartReport(console)
    spec = SystemSpec(default_ports=True, traffic=True, folder=folder)
    began = time.monotonic()
    with report:
        system = System(spec, report=report.tell_progress, on_change=report.tell_state)
        await system.__aenter__()
    try:
        await _decide_first(system.addresses)
        took_s = time.monotonic() - began
        console.print(
            f"first decision after {took_s:.1f} s: downloads and preparation {system.downloads_s:.1f} s, "
            f"start {took_s - system.downloads_s:.1f} s",
            highlight=False,
        )
        for name, (usual, port) in system.moved().items():
            console.print(f"port {usual} was taken, so {name} is on {port}", highlight=False)
        async with observe(system.addresses) as seen:
            await _show(system, seen, report, console)
    finally:
        console.print("ending everything")
        await system.__aexit__()
        console.print("all ended; the logs are in", str(folder / "logs"), highlight=False)


@contextlib.asynccontextmanager
async def observe(addresses: SystemAddresses) -> AsyncIterator[Observed]:
    """Yield what the system itself tells, kept up to date while the block runs; the past is not read."""
    seen = Observed()
    async with TopicReader(addresses.kafka, ["decisions", "verdicts"]) as reader, asyncio.TaskGroup() as tasks:
        redis = Redis.from_url(addresses.redis_url)

        async def follow_topics() -> None:
            while True:
                seen.note(await reader.read())

        async def follow_abuse() -> None:
            while True:
                # While Redis is away the view keeps what it knew; the parts' table shows that it is away.
                with contextlib.suppress(RedisError, OSError):
                    seen.note_abuse(await read_abuse(redis, list(seen.subjects)), time.time_ns() // 1_000_000)
                await asyncio.sleep(ABUSE_EVERY_S)

        following = [tasks.create_task(follow_topics()), tasks.create_task(follow_abuse())]
        try:
            yield seen
        finally:
            for task in following:
                task.cancel()
            await redis.aclose()


async def read_abuse(redis: Redis, subjects: list[str]) -> list[tuple[str, AbuseState]]:
    """Read what Redis holds against some subjects; those that it holds nothing against are left out."""
    if not subjects:
        return []
    values = await redis.mget([name_abuse(subject) for subject in subjects])
    return [
        (subject, AbuseState.model_validate_json(value))
        for subject, value in zip(subjects, values, strict=True)
        if value is not None
    ]


async def _decide_first(addresses: SystemAddresses) -> None:
    async with open_witness(addresses.envoy, FIRST_DECISION_WITHIN_S) as client:
        await client.check("first", "search")


async def _show(system: System, seen: Observed, report: StartReport, console: Console) -> None:
    began = time.monotonic()
    if not console.is_terminal:
        for command in name_commands(system.addresses):
            console.print(f"  to try: {command}", highlight=False, markup=False, soft_wrap=True)
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            line = show_line(seen, system.states(), now_ms=time.time_ns() // 1_000_000, up_s=time.monotonic() - began)
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    report.be_quiet()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            now_ms, up_s = time.time_ns() // 1_000_000, time.monotonic() - began
            shown = show_everything(seen, system.states(), system.addresses, now_ms=now_ms, up_s=up_s, rows=console.size.height)
            live.update(shown, refresh=True)
            await asyncio.sleep(REFRESH_S)


async def _until_signalled(folder: Path) -> int:
    task = asyncio.ensure_future(run(folder, _CONSOLE))
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return 0
    except (DevstackError, NoDecision, KafkaError, LookupError) as error:
        _CONSOLE.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1


def main(
    stop: Annotated[bool, typer.Option("--stop", help="End what runs instead.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Folder for state, logs and data.")] = FOLDER,
) -> None:
    """Run the whole system with simulated traffic and show it, until Ctrl-C or --stop."""
    running = folder / RUNNING_FOLDER
    if stop:
        ended = end_running(running)
        _CONSOLE.print(
            f"ended: {', '.join(f'{one.name} (pid {one.process.pid})' for one in ended)}" if ended else "nothing runs"
        )
        return
    with StateFolder(folder / RUN_FOLDER).owned() as is_owner:
        if not is_owner:
            pids = ", ".join(str(one.process.pid) for one in find_running(running) if one.name == "run")
            _CONSOLE.print(f"Ratchet runs already (pid {pids}); end it with `make stop`, or take another --dir")
            raise typer.Exit(1)
        with recorded(running, "run"):
            code = asyncio.run(_until_signalled(folder / RUN_FOLDER))
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
