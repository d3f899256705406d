"""From a denial to the ban that it leads to: ``python -m bench.ban_latency``.

One abuser after the other logs in until the threshold is crossed. The clock runs from the answer to that denial until each of
two enforcers says BAN, so it spans the fold, Kafka, the detector, Redis, and the next check.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Annotated

import typer

from bench.exactness import parse_pair
from enforcer.client import AsyncClient
from examples.findings import BAN, DENY, LOGIN_CAPACITY, THRESHOLD
from examples.system import System, SystemSpec
from examples.targets import open_witness

POLL_S = 0.002
BAN_WITHIN_S = 15.0


async def offend(clients: tuple[AsyncClient, AsyncClient], user: str) -> tuple[float, float]:
    """Offend once as a new user; return after how many ms each enforcer said BAN, infinite for one that did not in time."""
    denied = 0
    for number in range(THRESHOLD + LOGIN_CAPACITY):
        answer = await clients[number % 2].check(user, "login")
        denied += answer.outcome == DENY
        if denied == THRESHOLD:
            break
    crossed_s = time.perf_counter()

    async def wait_for_ban(client: AsyncClient) -> float:
        while time.perf_counter() - crossed_s < BAN_WITHIN_S:
            # A cost of 0 reads without taking or counting, so that waiting adds no denials.
            if (await client.check(user, "login", cost=0)).outcome == BAN:
                return (time.perf_counter() - crossed_s) * 1000
            await asyncio.sleep(POLL_S)
        return float("inf")

    one_ms, other_ms = await asyncio.gather(*map(wait_for_ban, clients))
    return one_ms, other_ms


async def measure(enforcers: tuple[str, str], abusers: int) -> list[float]:
    """Return for each abuser after how many ms the ban was visible on both enforcers, in ascending order."""
    mark = uuid.uuid4().hex[:8]
    async with (
        open_witness(enforcers[0]) as first,
        open_witness(enforcers[1]) as second,
    ):
        await offend((first, second), f"first-{mark}")  # connections, scripts and the detector's first fold are not measured
        return sorted([max(await offend((first, second), f"abuser-{number}-{mark}")) for number in range(abusers)])


def main(
    abusers: Annotated[int, typer.Option(min=1, max=10_000, help="How many offend, one after the other.")] = 200,
    against: Annotated[str, typer.Option(help="host:port,host:port of two enforcers that run; else a system is started.")] = "",
) -> None:
    """Measure denial to ban; exit 0 only if every abuser was banned on both enforcers."""

    async def run() -> list[float]:
        if against:
            return await measure(parse_pair(against), abusers)
        async with System(SystemSpec()) as system:
            return await measure(system.addresses.enforcers, abusers)

    waits_ms = asyncio.run(run())
    p50, p99 = (waits_ms[max(0, -(-len(waits_ms) * percent // 100) - 1)] for percent in (50, 99))
    print(
        f"denial to ban on both enforcers, {abusers} abusers: p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {waits_ms[-1]:.0f} ms"
    )
    raise typer.Exit(0 if waits_ms[-1] != float("inf") else 1)


if __name__ == "__main__":
    typer.run(main)
