"""A process that asks for tokens of a few subjects on a random schedule, through the enforcer's own store.

``python -m tests.integration.enforcer.hammer URL SEED SECONDS`` says ``ready``, waits for a line, and then writes its history.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import NamedTuple

from enforcer.decisions.decision import Reading
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.stores.cluster_store import Store, open_store
from enforcer.telemetry import configure_logs
from tests.unit.enforcer.builders import make_check, make_policies

POLICIES = """
version: 1
subjects: [user]
policies:
  - name: hammered
    match: { action: hammered }
    limits:
      - { name: per_user, per: [user], capacity: 300, refill: 300/1s }
  - name: crowded
    match: { action: crowded }
    limits:
      - { name: everybody, per: [], capacity: 60, refill: 300/1s }
      - { name: per_user, per: [user], capacity: 10, refill: 20/100ms }
  - name: alone
    match: { action: alone }
    limits:
      - { name: per_user, per: [user], capacity: 10, refill: 20/100ms }
      - { name: trial, per: [user], capacity: 3, refill: 5/1s, mode: shadow }
  - name: default
    match: { action: "*" }
    limits: []
"""
PLANNER = Planner(make_policies(POLICIES))
USERS = ("ann", "bob", "cid")
ASKING_AT_ONCE = 6
LONGEST_PAUSE_S = 0.004
NEVER_S = 60.0
"""Deadline of a call: on a machine that is busy with other things none is to be given up."""


class Asked(NamedTuple):
    """One check: what was asked, and when; what was answered, and when. Instants in microseconds since the epoch."""

    user: str
    action: str
    cost: int
    called_us: int
    returned_us: int
    now_us: int
    """The server's time when it decided."""
    status: int
    refused: int
    refused_at_1: int
    levels: list[int]


def choose_plan(chance: random.Random) -> Plan:
    """Half of all ask for the same bucket."""
    if chance.random() < 0.5:
        return PLANNER.plan(make_check("ann", "hammered"))
    action = chance.choice(("crowded", "alone"))
    return PLANNER.plan(make_check(chance.choice(USERS), action, chance.choice((0, 1, 1, 1, 2, 5))))


async def take(store: Store, plan: Plan) -> Reading:
    """Take the plan's tokens."""
    answered: asyncio.Future[Reading | None] = asyncio.get_running_loop().create_future()
    store.take(plan, lambda *_: None, lambda _plan, _answer, reading: answered.set_result(reading))
    reading = await answered
    assert reading is not None, "no answer"
    return reading


async def hammer(url: str, seed: int, for_us: int) -> list[Asked]:
    """Ask until the server's time has gone on for so long; the history is in the order of the answers."""
    history: list[Asked] = []

    async def ask_on(store: Store, chance: random.Random) -> None:
        while not history or history[-1].now_us < history[0].now_us + for_us:
            plan, called_us = choose_plan(chance), time.time_ns() // 1000
            reading = await take(store, plan)
            asked = plan.check.user_id, plan.check.action, plan.check.cost, called_us, time.time_ns() // 1000
            answer = reading.now_us, int(reading.status), reading.refused, reading.refused_at_1, list(reading.levels)
            history.append(Asked(*asked, *answer))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, LONGEST_PAUSE_S))

    store = open_store(url, NEVER_S)
    store.start()
    while not store.is_available:  # noqa: ASYNC110 the store tells nobody who waits
        await asyncio.sleep(0.001)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(ask_on(store, random.Random(seed * 1000 + number)) for number in range(ASKING_AT_ONCE)))
    await store.close()
    return history


if __name__ == "__main__":
    configure_logs("warning")
    sys.stdout.write(json.dumps(asyncio.run(hammer(sys.argv[1], int(sys.argv[2]), int(float(sys.argv[3]) * 1e6)))) + "\n")
