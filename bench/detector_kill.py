"""A ban although the detector was killed: ``python -m bench.detector_kill``.

The detector is killed with SIGKILL at one moment of an attack after the other: before it, between its denials, at its last
one. Each abuser has to be banned once and not twice: one verdict, which a detector that was killed may tell a second time under
the same id, and one offence in the subject's state. The clock runs from the answer to the denial that crosses the threshold.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Annotated

import typer
from redis.asyncio import Redis

from enforcer.client import AsyncClient
from examples.findings import BAN, DENY, LOGIN_CAPACITY, THRESHOLD
from examples.system import System, SystemSpec
from examples.targets import open_witness
from examples.topic_reader import TopicReader
from lua.keys import name_abuse, name_subject
from topics.events import AbuseState, VerdictEvent

POLL_S = 0.01
READY_WITHIN_S = 60.0
BAN_WITHIN_S = 60.0
VERDICT_WITHIN_S = 30.0


async def attack(system: System, client: AsyncClient, user: str, kill_after: int) -> float:
    """Offend once, killing the detector after ``kill_after`` denials; return after how many s the ban came, else infinity."""
    denied = 0
    for _ in range(THRESHOLD + LOGIN_CAPACITY):
        if denied == kill_after:
            await system.kill("detector")
            kill_after = -1
        answer = await client.check(user, "login")
        denied += answer.outcome == DENY
    crossed_s = time.perf_counter()
    if kill_after == denied:
        await system.kill("detector")
    while time.perf_counter() - crossed_s < BAN_WITHIN_S:
        if (await client.check(user, "login", cost=0)).outcome == BAN:
            return time.perf_counter() - crossed_s
        await asyncio.sleep(POLL_S)
    return float("inf")


async def measure(kills: int) -> tuple[list[float], list[str]]:
    """Return the waits in ascending order, and a line for every abuser who was not banned exactly once."""
    async with System(SystemSpec()) as system, TopicReader(system.addresses.kafka, ["verdicts"]) as reader:
        abusers = [f"abuser-{number}" for number in range(kills)]
        async with open_witness(system.addresses.envoy) as client:
            waits_s = []
            for number, user in enumerate(abusers):
                waits_s.append(await attack(system, client, user, number % (THRESHOLD + 1)))
                await _wait_for_detector(system)
        verdicts = await _read_verdicts(reader, {f"user={user}" for user in abusers})
        offences = await _count_offences(system.addresses.redis_url, abusers)
    wrong = [
        f"{user}: {len(verdicts[f'user={user}'])} verdicts, {offences[user]} offences"
        for user in abusers
        if len(verdicts[f"user={user}"]) != 1 or offences[user] != 1
    ]
    return sorted(waits_s), wrong


async def _read_verdicts(reader: TopicReader, subjects: set[str]) -> dict[str, set[str]]:
    """Return the ids of what was applied by subject. A ban is seen in Redis before its verdict is in the topic: wait for it."""
    applied: dict[str, set[str]] = defaultdict(set)
    deadline = time.monotonic() + VERDICT_WITHIN_S
    while subjects - applied.keys() and time.monotonic() < deadline:
        for event in await reader.read():
            if isinstance(event, VerdictEvent) and event.result == "applied":
                applied[event.subject].add(event.verdict_id)
    async for event in reader.read_to_end():
        if isinstance(event, VerdictEvent) and event.result == "applied":
            applied[event.subject].add(event.verdict_id)
    return applied


async def _count_offences(redis_url: str, users: list[str]) -> dict[str, int]:
    async with Redis.from_url(redis_url) as redis:
        states = [await redis.get(name_abuse(name_subject("user", user))) for user in users]
    return {
        user: AbuseState.model_validate_json(state).offences if state else 0 for user, state in zip(users, states, strict=True)
    }


async def _wait_for_detector(system: System) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not any(state.name == "detector" and state.status == "ready" for state in system.states()):
        if time.monotonic() > deadline:
            raise TimeoutError("the detector was not started again")
        await asyncio.sleep(POLL_S)


def main(kills: Annotated[int, typer.Option(min=1, max=1_000, help="How often the detector is killed.")] = 11) -> None:
    """Kill the detector in attacks; exit 0 only if every abuser was banned exactly once."""
    waits_s, wrong = asyncio.run(measure(kills))
    middle = waits_s[len(waits_s) // 2]
    print(f"{kills} kills: ban after {waits_s[0]:.1f} to {waits_s[-1]:.1f} s, median {middle:.1f} s")
    print("\n".join(wrong) or "each abuser banned once: one verdict, one offence")
    raise typer.Exit(1 if wrong or waits_s[-1] == float("inf") else 0)


if __name__ == "__main__":
    typer.run(main)
