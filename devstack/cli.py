"""``python -m devstack up|down|status``: a stack in the background, for a developer's shell and for scripts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from devstack.daemon import serve
from devstack.errors import DevstackError
from devstack.guardian import GONE_WITHIN_S
from devstack.layout import StackSpec
from devstack.process import passes
from devstack.state import DEFAULT_FOLDER, ROOT, StackState, StateFolder, end_processes

POLL_S = 0.05
LINE_EVERY_S = 2.0
"""Without a terminal, the progress of a download is told this often at most."""
DOWN_WITHIN_S = 30.0
SUPERVISOR_LOG = "supervisor.log"

app = typer.Typer(help="Real Redis, Kafka and Envoy on this machine, without Docker.", no_args_is_help=True)
console = Console(width=None if sys.stdout.isatty() else 160)
errors = Console(stderr=True)

Folder = Annotated[Path, typer.Option("--dir", help="Folder for state, logs and data.")]


@app.command()
def up(
    only: Annotated[str, typer.Option(help="Parts to start, joined by commas.")] = "redis,kafka,envoy",
    brokers: Annotated[int, typer.Option(help="Kafka brokers; from three on, topics have three replicas.")] = 1,
    replica: Annotated[bool, typer.Option("--replica", help="Add a Redis that follows the first.")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="Add a Redis Cluster of three masters.")] = False,
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Start the stack in the background and wait until it is ready. One that is up already is left as it is."""
    try:
        parts = frozenset(part.strip() for part in only.split(",") if part.strip())
        asked = {"parts": parts, "brokers": brokers, "replica": replica, "cluster": cluster, "default_ports": True}
        spec = StackSpec.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{place}: " for place in first["loc"][:1])
        _fail(DevstackError(f"{where}{first['msg'].removeprefix('Value error, ')}"))
    place, launched = StateFolder(folder), None
    try:
        before = place.read()
        if is_up := before is not None and before.is_up():
            console.print("The stack is up already.")
        else:
            if before is not None:
                _await_guardian(place)
            launched = _launch(place, spec)
        state = _follow(place, launched)
    except DevstackError as error:
        _fail(error)
    except KeyboardInterrupt:
        console.print("Interrupted: ending what was started.")
        if launched is not None:
            launched.terminate()
            launched.wait()
            _end(place)
        raise typer.Exit(130) from None
    if is_up and state.spec != spec:
        console.print("It was started with other options; run down first to change them.")
    _show(state, asyncio.run(_probe(state)))


def _await_guardian(place: StateFolder) -> None:
    """The supervisor was killed: what its guardian still removes must not be the next stack's. Brief, should both be dead."""
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while (place.path / "data").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)


@app.command()
def down(folder: Folder = DEFAULT_FOLDER) -> None:
    """End the stack, also one whose supervisor was killed. Data goes, logs stay."""
    try:
        was_up = _end(StateFolder(folder))
    except DevstackError as error:
        _fail(error)
    console.print("The stack is down." if was_up else "The stack was not up.")


@app.command()
def status(
    folder: Folder = DEFAULT_FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object to standard output.")] = False,
) -> None:
    """Ask every part whether it can be used; exit with 0 only if all can."""
    place = StateFolder(folder)
    try:
        state = place.read()
    except DevstackError as error:
        _fail(error)
    if state is not None and not state.is_up():
        state = None
    ready = {} if state is None else asyncio.run(_probe(state))
    is_ready = state is not None and state.phase == "ready" and all(ready.values())
    if as_json:
        print(json.dumps(_as_json(state, ready, is_ready=is_ready), indent=1))  # noqa: T201 the answer itself
    elif state is None:
        console.print("The stack is not up.")
    else:
        _show(state, ready)
    raise typer.Exit(0 if is_ready else 1)


@app.command(name="serve", hidden=True)
def serve_command(folder: Folder, spec: Annotated[str, typer.Option()]) -> None:
    """Run the stack in this process; what ``up`` starts in the background."""
    raise typer.Exit(0 if serve(StateFolder(folder), StackSpec.model_validate_json(spec)) else 1)


def _launch(place: StateFolder, spec: StackSpec) -> subprocess.Popen[bytes]:
    """Start the supervisor in a session of its own, so that nothing done to this terminal reaches it."""
    try:
        place.logs.mkdir(parents=True, exist_ok=True)
        with (place.logs / SUPERVISOR_LOG).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 this program itself
                [sys.executable, "-m", "devstack", "serve", "--dir", place.path, "--spec", spec.model_dump_json()],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise DevstackError(f"{place.path} cannot be used: {error.strerror}", "Name another folder with --dir.") from error


def _follow(place: StateFolder, launched: subprocess.Popen[bytes] | None) -> StackState:
    """Show what the supervisor does until everything is ready.

    Args:
        place: Where it writes its state.
        launched: The supervisor that this process started, unless there was one. It ends at once if another came first.

    Raises:
        DevstackError: It failed, or ended without a word.
    """
    last_line, told_at = "", 0.0
    columns = TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        while True:
            has_ended = launched is None or launched.poll() is not None
            state = place.read()
            if state is not None and (state.is_up() or (launched is not None and state.supervisor.pid == launched.pid)):
                if state.phase == "ready":
                    return state
                if state.phase == "failed":
                    raise DevstackError(f"the stack could not start: {state.error}")
                bar.update(task, description=state.doing, completed=state.done_bytes, total=state.total_bytes or None)
                is_due = state.done_bytes == 0 or time.monotonic() - told_at > LINE_EVERY_S
                if not console.is_terminal and state.doing != last_line and is_due:
                    console.print(state.doing, soft_wrap=True, highlight=False)
                    last_line, told_at = state.doing, time.monotonic()
            elif has_ended:
                raise DevstackError("the supervisor ended while it started", f"Its log is {place.logs / SUPERVISOR_LOG}.")
            time.sleep(POLL_S)


def _end(place: StateFolder) -> bool:
    """End a stack and whatever is left of one; False when there was nothing."""
    state = place.read()
    if state is None:
        return False
    deadline = time.monotonic() + DOWN_WITHIN_S
    was_up = state.is_up()
    if was_up:
        os.kill(state.supervisor.pid, signal.SIGTERM)
        while state.is_up() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if state.is_up():  # its guardian ends the rest
            os.kill(state.supervisor.pid, signal.SIGKILL)
    left = end_processes((place.read() or state).processes)
    place.forget()
    return was_up or left > 0


async def _probe(state: StackState) -> dict[str, bool]:
    checks = state.addresses.checks()
    answers = await asyncio.gather(*(passes(check) for check in checks.values()))
    return dict(zip(checks, answers, strict=True))


def _as_json(state: StackState | None, ready: dict[str, bool], *, is_ready: bool) -> dict[str, Any]:
    if state is None:
        return {"is_up": False, "is_ready": False, "addresses": {}, "services": {}}
    ports = state.addresses.ports()
    return {
        "is_up": True,
        "is_ready": is_ready,
        "supervisor_pid": state.supervisor.pid,
        "addresses": state.addresses.named(),
        "services": {
            one.name: {
                "address": f"127.0.0.1:{ports[one.name]}",
                "is_ready": ready[one.name],
                "status": one.status,
                "pid": one.pid,
                "restarts": one.restarts,
                "ready_after_s": one.ready_after_s,
                "log": str(one.log),
            }
            for one in state.services
        },
    }


def _show(state: StackState, ready: dict[str, bool]) -> None:
    ports, moved = state.addresses.ports(), state.addresses.moved()
    table = Table("part", "address", "ready", "pid", "seconds", "log")
    for one in state.services:
        seconds = "" if one.ready_after_s is None else f"{one.ready_after_s:.2f}"
        is_ready = "yes" if ready[one.name] else f"no ({one.status})"
        table.add_row(one.name, f"127.0.0.1:{ports[one.name]}", is_ready, str(one.pid or ""), seconds, str(one.log))
    console.print(table)
    for name, port in moved.items():
        console.print(f"Port {port} was taken, so {name} is on {ports[name]}.")
    for name, address in state.addresses.named().items():
        console.print(f"{name}: {address}", soft_wrap=True, highlight=False)
    if state.ready_after_s is not None:
        console.print(f"All ready after {state.ready_after_s:.1f} s.")


def _fail(error: DevstackError) -> Any:
    errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
