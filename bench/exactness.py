"""How exact a limit is over two enforcers: ``python -m bench.exactness``.

Client processes ask for one user's ``search`` without pause, half of them at each enforcer. What was admitted has to lie within
``capacity + refill x time``, less one token at most: the bucket gives no more, and what it holds is taken.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Annotated

import typer

from enforcer.client import AsyncClient
from examples.findings import ALLOW, Finding, judge_searches
from examples.system import System, SystemSpec
from examples.targets import open_witness

START_WITHIN_S = 120.0
"""For every process to be there; they start to ask together."""
REACHABLE_WITHIN_S = 10.0
IN_FLIGHT = 4
"""Calls that one process has under way."""

_BARRIERS: list[Barrier] = []
"""Of a client process: the one that it was given when it started."""


@dataclass(frozen=True, slots=True)
class Hammered:
    """What one client process saw; instants on the machine's monotonic clock, which its processes share."""

    sent: int
    admitted: int
    degraded: int
    first_send_s: float
    first_answer_s: float
    last_send_s: float
    last_answer_s: float


def hammer(address: str, user: str, seconds: float) -> Hammered:
    """Ask one enforcer without pause, from a common start on; runs in a process of its own."""
    return asyncio.run(_hammer(address, user, seconds))


def share_barrier(barrier: Barrier) -> None:
    """Give a new process the barrier at which all of them wait; a barrier can only be inherited."""
    _BARRIERS.append(barrier)


def judge(seen: list[Hammered]) -> Finding:
    """Judge what all the processes were given together."""
    least_s = max(one.last_send_s for one in seen) - min(one.first_answer_s for one in seen)
    most_s = max(one.last_answer_s for one in seen) - min(one.first_send_s for one in seen)
    admitted, degraded = sum(one.admitted for one in seen), sum(one.degraded for one in seen)
    return judge_searches(admitted, degraded, least_s=least_s, most_s=most_s)


async def _hammer(address: str, user: str, seconds: float) -> Hammered:
    sends: list[float] = []
    answers: list[float] = []
    admitted = degraded = 0

    async def ask_on(client: AsyncClient, until_s: float) -> None:
        nonlocal admitted, degraded
        while (now_s := time.monotonic()) < until_s:
            sends.append(now_s)
            answer = await client.check(user, "search")
            answers.append(time.monotonic())
            admitted += answer.outcome == ALLOW
            degraded += answer.is_degraded

    async with open_witness(address) as client:
        await client.wait_until_reachable(REACHABLE_WITHIN_S)
        await asyncio.to_thread(_BARRIERS[0].wait, START_WITHIN_S)
        until_s = time.monotonic() + seconds
        await asyncio.gather(*(ask_on(client, until_s) for _ in range(IN_FLIGHT)))
    return Hammered(len(sends), admitted, degraded, sends[0], min(answers), max(sends), max(answers))


async def measure(enforcers: tuple[str, str], *, processes: int, seconds: float) -> list[Hammered]:
    """Let the processes hammer one new user, and return what each of them saw."""
    user = f"hammer-{uuid.uuid4().hex[:8]}"
    loop = asyncio.get_running_loop()
    # Spawned, not forked: gRPC's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(processes)
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=share_barrier, initargs=(barrier,)) as pool:
        works = (partial(hammer, enforcers[number % 2], user, seconds) for number in range(processes))
        return list(await asyncio.gather(*(loop.run_in_executor(pool, work) for work in works)))


def parse_pair(text: str) -> tuple[str, str]:
    """Split ``host:port,host:port``.

    Raises:
        typer.BadParameter: It is not two addresses.
    """
    first, _, second = text.partition(",")
    if not (first and second) or "," in second:
        raise typer.BadParameter("two addresses: host:port,host:port")
    return first, second


def main(
    processes: Annotated[int, typer.Option(min=2, max=64, help="Client processes.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long they ask.")] = 10.0,
    against: Annotated[str, typer.Option(help="host:port,host:port of two enforcers that run; else a system is started.")] = "",
) -> None:
    """Hammer one user's search through two enforcers; exit 0 only if what was admitted is within the bounds."""

    async def run() -> list[Hammered]:
        if against:
            return await measure(parse_pair(against), processes=processes, seconds=seconds)
        async with System(SystemSpec()) as system:
            return await measure(system.addresses.enforcers, processes=processes, seconds=seconds)

    seen = asyncio.run(run())
    finding = judge(seen)
    sent = sum(one.sent for one in seen)
    print(f"{processes} processes sent {sent:,} checks in {seconds:g} s ({sent / seconds:,.0f}/s)")
    print(f"expected {finding.expected}; seen {finding.seen}: {'met' if finding.is_met else 'NOT MET'}")
    raise typer.Exit(0 if finding.is_met else 1)


if __name__ == "__main__":
    typer.run(main)
