"""Many processes that spend from the same buckets at once: their common history is one that the specification allows.

The server's own time, which every answer carries, is the order in which it decided. So the history is linearizable exactly if
each of these instants lies between its call and its return, and the specification, run in this order, gives every answer.
On a cluster this holds for each slot; of a check over several slots only the bounds are judged.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from enforcer.limits.bucket import UNLOWERED, Bucket, Status, Terms, take
from enforcer.stores.cluster_plan import split_plan
from lua.address import open_client
from tests.integration.enforcer.hammer import PLANNER, Asked
from tests.unit.enforcer.builders import make_check

PROCESSES = 4
SECONDS = 3


@pytest.fixture(scope="module", params=["server", "cluster"])
def history(request: pytest.FixtureRequest) -> list[Asked]:
    """What all the processes asked, in the server's order."""
    if request.param == "server":
        url = str(request.getfixturevalue("redis_url"))
    else:
        url = str(request.getfixturevalue("redis_cluster").addresses.cluster_url)
    asyncio.run(empty(url))
    with ExitStack() as stack:
        hammers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.integration.enforcer.hammer", url, str(seed), str(SECONDS)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for seed in range(PROCESSES)
        ]
        for each in hammers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in hammers:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        seen = [Asked(*asked) for each in hammers for asked in json.loads(each.communicate(timeout=60)[0])]
    # Checks of one call share an instant; they come in the order of their answers, and sorting keeps it.
    return sorted(seen, key=lambda asked: asked.now_us)


async def empty(url: str) -> None:
    async with open_client(url) as client:
        await client.flushdb()


def list_terms(asked: Asked) -> Iterator[tuple[str, Terms, bool]]:
    """Key and terms of each bucket that was asked, and whether it is in shadow mode."""
    plan = PLANNER.plan(make_check(asked.user, asked.action, asked.cost))
    for key, limit in zip(plan.bucket_keys, plan.limits, strict=True):
        yield key, limit.terms, limit.is_shadow


def is_in_one_slot(asked: Asked) -> bool:
    return len(split_plan(PLANNER.plan(make_check(asked.user, asked.action, asked.cost)))) == 1


def test_every_answer_is_the_specifications_at_its_place_between_call_and_return(
    history: list[Asked], request: pytest.FixtureRequest
) -> None:
    is_cluster = "cluster" in request.node.callspec.params.values()
    buckets: dict[str, Bucket] = {}
    judged = 0
    for asked in history:
        assert asked.called_us <= asked.now_us <= asked.returned_us
        if is_cluster and not is_in_one_slot(asked):
            continue
        keys, terms, shadows = zip(*list_terms(asked), strict=True)
        before: list[Bucket | None] = [buckets.get(key) for key in keys]
        after, taken = take(before, terms, shadows, [asked.cost] * len(keys), UNLOWERED, asked.now_us)
        buckets |= {key: bucket for key, bucket in zip(keys, after, strict=True) if bucket is not None}
        answer = asked.status, asked.refused, asked.refused_at_1, tuple(asked.levels)
        assert answer == (taken.status, taken.refused, taken.refused_at_1, taken.levels), asked
        judged += 1
    assert judged > len(history) / 2


def test_over_every_interval_no_more_is_admitted_than_the_terms_allow(history: list[Asked]) -> None:
    # A bucket was asked at the instant of the answer, but in a check over several slots only between its call and its return.
    taken: dict[str, list[tuple[int, int, int]]] = {}
    terms_of: dict[str, Terms] = {}
    for asked in history:
        when = (asked.now_us, asked.now_us) if is_in_one_slot(asked) else (asked.called_us, asked.returned_us)
        for key, terms, is_shadow in list_terms(asked):
            if asked.status == Status.ALLOW and not is_shadow:
                taken.setdefault(key, []).append((*when, asked.cost * terms.period_ticks))
                terms_of[key] = terms
    assert len(taken) == 8, "the hammered one, everybody, and two of each of three users"
    for key, takes in taken.items():
        terms = terms_of[key]
        takes.sort(key=lambda one: one[1])
        for start_us in {start for start, _, _ in takes}:
            units = 0
            for called_us, returned_us, cost_units in takes:
                if called_us >= start_us:
                    units += cost_units
                    assert units <= terms.capacity_units + (returned_us - start_us + terms.tick_us) * terms.refill, key


def test_what_the_hammered_bucket_held_was_granted(history: list[Asked]) -> None:
    mine = [asked for asked in history if asked.action == "hammered"]
    while mine[-1].status == Status.ALLOW:
        mine.pop()  # the last process to end leaves what refills meanwhile to nobody
    admitted = sum(asked.status == Status.ALLOW for asked in mine)
    (limit,) = PLANNER.plan(make_check("ann", "hammered")).limits
    span_us = mine[-1].now_us - mine[0].now_us
    held = limit.terms.capacity + span_us * limit.terms.refill / limit.terms.period_ticks
    assert 0.999 * held <= admitted <= held
    assert len(mine) > admitted + 100, "they asked for more than there was"
