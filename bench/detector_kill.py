"""A ban although the detector was killed: ``python -m bench.detector_kill``.

The detector is killed with SIGKILL at one moment of an attack after the other: before it, between its denials, at its last
one. Each abuser has to be banned once and not twice. The clock runs from the answer to the denial that crosses the threshold.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Annotated

import typer

from examples.enforcer_client import EnforcerClient
from examples.findings import BAN, DENY, LOGIN_CAPACITY, THRESHOLD
from examples.system import System, SystemSpec
from examples.targets import GRPC_TIMEOUT_S
from examples.topic_reader import TopicReader
from topics.events import VerdictEvent

POLL_S = 0.01
READY_WITHIN_S = 60.0
BAN_WITHIN_S = 60.0


async def attack(system: System, client: EnforcerClient, user: str, kill_after: int) -> float:
    """Offend once, killing the detector after ``kill_after`` denials; return after how many s the ban came, else infinity."""
    denied = 0
    for _ in range(THRESHOLD + LOGIN_CAPACITY):
        if denied == kill_after:
            await system.kill("detector")
            kill_after = -1
        answer = await client.check(user=user, action="login", attributes={})
        denied += answer.outcome == DENY
    crossed_s = time.perf_counter()
    if kill_after == denied:
        await system.kill("detector")
    while time.perf_counter() - crossed_s < BAN_WITHIN_S:
        if (await client.check(user=user, action="login", cost=0, attributes={})).outcome == BAN:
            return time.perf_counter() - crossed_s
        await asyncio.sleep(POLL_S)
    return float("inf")


async def measure(kills: int) -> tuple[list[float], Counter[str]]:
    """Return the waits in ascending order, and how many bans each abuser got."""
    async with System(SystemSpec()) as system, TopicReader(system.addresses.kafka, ["verdicts"]) as reader:
        async with EnforcerClient(system.addresses.envoy, timeout_s=GRPC_TIMEOUT_S) as client:
            waits_s = []
            for number in range(kills):
                waits_s.append(await attack(system, client, f"abuser-{number}", number % (THRESHOLD + 1)))
                await _wait_for_detector(system)
        verdicts = [event async for event in reader.read_to_end() if isinstance(event, VerdictEvent)]
        bans = Counter(event.subject for event in verdicts if event.result == "applied")
    return sorted(waits_s), bans


async def _wait_for_detector(system: System) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not any(state.name == "detector" and state.status == "ready" for state in system.states()):
        if time.monotonic() > deadline:
            raise TimeoutError("the detector was not started again")
        await asyncio.sleep(POLL_S)


def main(kills: Annotated[int, typer.Option(min=1, max=1_000, help="How often the detector is killed.")] = 11) -> None:
    """Kill the detector in attacks; exit 0 only if every abuser was banned exactly once."""
    waits_s, bans = asyncio.run(measure(kills))
    is_once = len(bans) == kills and set(bans.values()) == {1}
    middle = waits_s[len(waits_s) // 2]
    print(f"{kills} kills: ban after {waits_s[0]:.1f} to {waits_s[-1]:.1f} s, median {middle:.1f} s")
    print("each abuser banned once" if is_once else f"NOT once each: {dict(bans)}")
    raise typer.Exit(0 if is_once and waits_s[-1] != float("inf") else 1)


if __name__ == "__main__":
    typer.run(main)
