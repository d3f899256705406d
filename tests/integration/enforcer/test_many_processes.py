"""Many processes that spend from the same buckets at once: their common history is one that the specification allows.

The server's own time, which every answer carries, is the order in which it decided. So the history is linearizable exactly if
each of these instants lies between its call and its return, and the specification, run in this order, gives every answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from redis import Redis

from enforcer.bucket import UNLOWERED, Bucket, Status, Terms, take
from tests.integration.enforcer.hammer import PLANNER, Asked
from tests.unit.enforcer.builders import make_check

PROCESSES = 4
SECONDS = 3


@pytest.fixture(scope="module")
def history(redis_url: str) -> list[Asked]:
    """What all the processes asked, in the server's order."""
    with Redis.from_url(redis_url) as client:
        client.flushdb()
    with ExitStack() as stack:
        hammers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.integration.enforcer.hammer", redis_url, str(seed), str(SECONDS)],
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


def list_terms(asked: Asked) -> Iterator[tuple[str, Terms, bool]]:
    """Key and terms of each bucket that was asked, and whether it is in shadow mode."""
    plan = PLANNER.plan(make_check(asked.user, asked.action, asked.cost))
    for key, limit in zip(plan.bucket_keys, plan.limits, strict=True):
        yield key, limit.terms, limit.is_shadow


def test_every_answer_is_the_specifications_at_its_place_between_call_and_return(history: list[Asked]) -> None:
    buckets: dict[str, Bucket] = {}
    for asked in history:
        assert asked.called_us <= asked.now_us <= asked.returned_us
        keys, terms, shadows = zip(*list_terms(asked), strict=True)
        before: list[Bucket | None] = [buckets.get(key) for key in keys]
        after, taken = take(before, terms, shadows, [asked.cost] * len(keys), UNLOWERED, asked.now_us)
        buckets |= {key: bucket for key, bucket in zip(keys, after, strict=True) if bucket is not None}
        answer = asked.status, asked.refused, asked.refused_at_1, tuple(asked.levels)
        assert answer == (taken.status, taken.refused, taken.refused_at_1, taken.levels), asked


def test_over_every_interval_no_more_is_admitted_than_the_terms_allow(history: list[Asked]) -> None:
    # In units, from the first instant: what was admitted up to and with b, less what was before a, is at most the capacity
    # and what refilled between them. So the least of (admitted before a, less refilled until a) is what each b is held to.
    admitted: dict[str, int] = {}
    least: dict[str, int] = {}
    start_us = history[0].now_us
    for asked in history:
        for key, terms, is_shadow in list_terms(asked):
            if asked.status != Status.ALLOW or is_shadow:
                continue
            refilled = (asked.now_us - start_us) // terms.tick_us * terms.refill
            before = admitted.get(key, 0)
            least[key] = min(least.get(key, before - refilled), before - refilled)
            admitted[key] = before + asked.cost * terms.period_ticks
            assert admitted[key] - refilled - least[key] <= terms.capacity_units, asked
    assert len(admitted) == 5, "three users, everybody, and the hammered one"


def test_what_the_hammered_bucket_held_was_granted(history: list[Asked]) -> None:
    mine = [asked for asked in history if asked.action == "hammered"]
    admitted = sum(asked.status == Status.ALLOW for asked in mine)
    (limit,) = PLANNER.plan(make_check("ann", "hammered")).limits
    span_us = mine[-1].now_us - mine[0].now_us
    held = limit.terms.capacity + span_us * limit.terms.refill / limit.terms.period_ticks
    assert 0.999 * held <= admitted <= held
    assert len(mine) > 2 * admitted, "they asked for much more than there was"
