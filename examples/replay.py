"""Plays an access log through running enforcers: ``python -m examples.replay FILE --speed 50``.

Any log in Common or Combined Log Format, gzipped or not, at its own pace or faster. Replayed faster than it happened a log
shows load and audit, not judgement: rates are that much higher, and so more is refused.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from enforcer.client import AsyncClient, NoDecision
from examples.access_log import ACTIONS_BY, ActionOf
from examples.pacing import Pace, send_paced
from examples.replay_plan import ReplayedRequest, ReplayPlan, plan_replay
from examples.tally import Tally, show_tally
from examples.targets import ask, open_witness
from examples.topic_reader import Positions, TopicReader
from topics.events import DecisionEvent

REACHABLE_WITHIN_S = 10.0
AUDITED_WITHIN_S = 30.0
GZIP_MAGIC = b"\x1f\x8b"
_CONSOLE = Console(width=None if Console().is_terminal else 160)


@contextmanager
def open_log(path: Path) -> Iterator[Iterator[str]]:
    """Open a log for reading, gzipped or not; bytes that are no UTF-8 become U+FFFD.

    Raises:
        OSError: It cannot be read (``gzip.BadGzipFile`` is one).
    """
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        unpacked = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        # Only \n ends a line: a log may hold other line separators inside its quotes.
        yield io.TextIOWrapper(unpacked, encoding="utf-8", errors="replace", newline="\n")


async def replay(
    plan: ReplayPlan,
    client: AsyncClient,
    *,
    speed: float | None,
    concurrency: int,
    mark: str,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
) -> tuple[Tally, Pace]:
    """Send a plan's requests to an enforcer at their own pace.

    Args:
        plan: What to send.
        client: Whom to ask.
        speed: Seconds of the log that pass in one; None for as fast as it goes.
        concurrency: Most requests under way.
        mark: Value of the attribute ``replay`` of every request, by which its decisions are found in the topic.
        progress: Shows how far it is.
        stop: Ends it early when set.
    """
    tally = Tally()
    task = None if progress is None else progress.add_task("replaying", total=len(plan.timed))

    async def send(request: ReplayedRequest) -> None:
        attributes = {"replay": mark, "ip": request.ip} if request.ip else {"replay": mark}
        tally.add(await ask(client, user=request.user, action=request.action, attributes=attributes))
        if progress is not None and task is not None:
            progress.advance(task)

    pace = await send_paced(plan.timed, send, speed=speed, concurrency=concurrency, stop=stop)
    return tally, pace


async def count_decisions(bootstrap: str, since: Positions, mark: str, expected: int) -> int:
    """Count a replay's decisions in the topic, waiting up to ``AUDITED_WITHIN_S`` for ``expected`` of them."""
    found = 0
    async with TopicReader(bootstrap, ["decisions"], since=since) as reader:
        try:
            async with asyncio.timeout(AUDITED_WITHIN_S):
                while found < expected:
                    for event in await reader.read():
                        found += isinstance(event, DecisionEvent) and event.attributes.get("replay") == mark
        except TimeoutError:
            pass  # what is missing then is the result
    return found


async def _run(plan: ReplayPlan, *, target: str, speed: float | None, concurrency: int, kafka: str) -> bool:
    mark = uuid.uuid4().hex[:12]
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    since: Positions = {}
    if kafka:
        async with TopicReader(kafka, ["decisions"]) as reader:
            since = reader.positions
    async with open_witness(target) as client:
        await client.wait_until_reachable(REACHABLE_WITHIN_S)
        columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=_CONSOLE, disable=not _CONSOLE.is_terminal) as progress:
            tally, pace = await replay(
                plan, client, speed=speed, concurrency=concurrency, mark=mark, progress=progress, stop=stop
            )
    _CONSOLE.print(show_tally(tally, pace))
    decided = tally.total() - tally.outcomes["error"]
    is_whole = not tally.outcomes["error"]
    if kafka:
        found = await count_decisions(kafka, since, mark, decided)
        is_whole = is_whole and found == decided
        _CONSOLE.print(f"{found:,} of {decided:,} decisions are in topic decisions" + ("" if found == decided else ": NOT ALL"))
    return is_whole


def _describe(path: Path, plan: ReplayPlan, speed: float | None) -> str:
    users = len({request.user for _, request in plan.timed})
    lines = [f"{path}: {plan.lines:,} lines, {len(plan.timed):,} requests of {users:,} users over {plan.span_s / 3600:.1f} h"]
    if plan.is_limited:
        lines.append("the log goes on; --limit takes more of it")
    if plan.out_of_order:
        lines.append(f"{plan.out_of_order:,} stand behind a later request and are sent in the order of their times")
    if plan.malformed:
        lines.append(f"{plan.malformed:,} lines are malformed and left out:")
        lines += [f"  line {line.line_number}: {line.why}: {line.excerpt!r}" for line in plan.shown]
    if plan.cut_s:
        lines.append(f"silences are shortened by {plan.cut_s / 3600:.1f} h in all")
    if speed is not None:
        takes = f"at {speed:g} x this takes {plan.takes_s / speed:,.0f} s"
        hint = "; --longest-gap 10 shortens the log's silences" if plan.takes_s / speed > 600 and not plan.cut_s else ""
        lines.append(takes + hint)
    return "\n".join(lines)


def _parse_speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1_000_000:
        raise typer.BadParameter("a number above 0, such as 50, or max")
    return speed


def _choose_action(by: str) -> ActionOf:
    if by in ACTIONS_BY:
        return ACTIONS_BY[by]
    if by.startswith("=") and by[1:].isascii() and by[1:].isprintable() and " " not in by and 1 <= len(by[1:]) <= 128:
        return lambda _: by[1:]
    raise typer.BadParameter(f"one of {', '.join(ACTIONS_BY)}, or =NAME for one action for all")


def main(
    file: Annotated[Path, typer.Argument(envvar="RATCHET_ACCESS_LOG", help="Access log, gzipped or not.")],
    target: Annotated[str, typer.Option(help="host:port of an enforcer or of Envoy.")] = "127.0.0.1:50050",
    speed: Annotated[str, typer.Option(help="How many times faster than it happened; max: as fast as it goes.")] = "1",
    action_by: Annotated[
        str, typer.Option(help="What makes the action: kind (login, search, browse), path-prefix, method, or =NAME.")
    ] = "kind",
    limit: Annotated[int, typer.Option(min=1, max=10_000_000, help="Take at most so many requests.")] = 1_000_000,
    longest_gap: Annotated[
        float | None, typer.Option(min=0.0, help="Shorten silences of the log to so many of its seconds.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=10_000, help="Most requests under way.")] = 256,
    audit: Annotated[bool, typer.Option("--audit", help="Count the decisions in Kafka afterwards.")] = False,
    kafka: Annotated[str, typer.Option(envvar="KAFKA_BOOTSTRAP", help="host:port, for --audit.")] = "127.0.0.1:9092",
) -> None:
    """Replay an access log, then say who was limited and banned and why. Exits 1 when a request got no decision."""
    chosen_speed, action_of = _parse_speed(speed), _choose_action(action_by)
    try:
        with open_log(file) as lines:
            plan = plan_replay(lines, action_of=action_of, limit=limit, longest_gap_s=longest_gap)
    except (OSError, EOFError) as error:
        typer.echo(f"cannot read {file}: {error}", err=True)
        raise typer.Exit(2) from error
    _CONSOLE.print(_describe(file, plan, chosen_speed), highlight=False, markup=False)
    if not plan.timed:
        typer.echo("nothing to replay: is this an access log in Common or Combined Log Format?", err=True)
        raise typer.Exit(2)
    try:
        is_whole = asyncio.run(
            _run(plan, target=target, speed=chosen_speed, concurrency=concurrency, kafka=kafka if audit else "")
        )
    except NoDecision as error:
        typer.echo(f"{error.why}; start the system with `make run`, or name another --target", err=True)
        raise typer.Exit(3) from error
    except (KafkaError, LookupError) as error:
        typer.echo(f"cannot audit: {error}; is --kafka right?", err=True)
        raise typer.Exit(3) from error
    raise typer.Exit(0 if is_whole else 1)


if __name__ == "__main__":
    typer.run(main)
