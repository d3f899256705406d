"""``make demo``: the system on private ports, the scenario once, and a table of expected against seen.

``--against`` plays the very same scenario against a system that runs already, such as that of docker compose.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from devstack.errors import DevstackError
from enforcer.client import NoDecision
from examples.findings import Finding
from examples.run import FOLDER, RUNNING_FOLDER
from examples.running import recorded
from examples.scenario import play_scenario
from examples.start_report import StartReport
from examples.system import System, SystemAddresses, SystemSpec

DEMO_RULES = Path(__file__).with_name("demo_rules.yaml")

_CONSOLE = Console(width=None if Console().is_terminal else 140)


def show_findings(findings: Sequence[Finding]) -> Table:
    """Lay out what was expected against what was seen."""
    table = Table()
    for column in ("", "promise", "expected", "seen"):
        table.add_column(column)
    for finding in findings:
        sign, style = ("ok", "green") if finding.is_met else ("NOT MET", "bold red")
        table.add_row(f"[{style}]{sign}[/]", finding.what, finding.expected, finding.seen)
    return table


async def demonstrate(against: SystemAddresses | None) -> list[Finding]:
    """Play the scenario against a running system, or against one that is started for it and ended afterwards.

    Raises:
        DevstackError: The system could not start.
    """
    if against is not None:
        return await play_scenario(against, tell=_tell, drain=_leave_running)
    report = StartReport(_CONSOLE)
    system = System(SystemSpec(rules=DEMO_RULES), report=report.tell_progress, on_change=report.tell_state)
    with report:
        await system.__aenter__()
    try:
        _tell(f"ready: downloads and preparation {system.downloads_s:.1f} s, start {system.start_s:.1f} s")
        return await play_scenario(system.addresses, tell=_tell, drain=system.drain)
    finally:
        await system.__aexit__()


def _tell(line: str) -> None:
    _CONSOLE.print(line, highlight=False, markup=False, soft_wrap=True)


async def _leave_running() -> None:
    """Nothing is drained that this process did not start."""


async def _until_signalled(against: SystemAddresses | None) -> int:
    task = asyncio.ensure_future(demonstrate(against))
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)
    began = time.monotonic()
    try:
        findings = await task
    except asyncio.CancelledError:
        return 130
    except (DevstackError, NoDecision, KafkaError, LookupError) as error:
        _CONSOLE.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    _CONSOLE.print(show_findings(findings))
    missed = sum(not finding.is_met for finding in findings)
    _tell(f"{len(findings) - missed} of {len(findings)} promises met in {time.monotonic() - began:.1f} s")
    return 1 if missed else 0


def main(
    against: Annotated[str, typer.Option(help="host:port,host:port of two enforcers that run already.")] = "",
    envoy: Annotated[str, typer.Option(help="With --against: host:port of Envoy.")] = "127.0.0.1:50050",
    redis: Annotated[str, typer.Option(help="With --against: redis:// address.")] = "redis://127.0.0.1:6379/0",
    kafka: Annotated[str, typer.Option(help="With --against: host:port of Kafka.")] = "127.0.0.1:9092",
) -> None:
    """Play the scenario once; exit 0 only if what should happen did."""
    addresses = None
    if against:
        first, comma, second = against.partition(",")
        if not (first and comma and second):
            raise typer.BadParameter("two addresses: host:port,host:port", param_hint="--against")
        addresses = SystemAddresses(enforcers=(first, second), envoy=envoy, redis_url=redis, kafka=kafka)
    with recorded(FOLDER / RUNNING_FOLDER, "demo"):
        code = asyncio.run(_until_signalled(addresses))
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
