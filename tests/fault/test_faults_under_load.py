"""Faults of Redis under load: what is promised is kept. ``python -m bench.faults`` plays them all, and longer."""

from __future__ import annotations

import pytest

from bench.fault_plays import FAULTS, Fault
from bench.faults import play

PLAYED = [fault for fault in FAULTS if fault.name in {"redis-read-only", "redis-full", "redis-slow", "replies-cut"}]


@pytest.mark.parametrize("fault", PLAYED, ids=lambda fault: fault.name)
async def test_every_answer_comes_every_decision_is_in_the_topic_and_little_is_given_beyond_the_limit(fault: Fault) -> None:
    seen = await play(fault, during_s=1.0)
    assert (seen.unanswered, seen.missing, seen.doubled, seen.events) == (0, 0, 0, seen.answers)
    assert seen.degraded > 0
    assert seen.beyond <= seen.bound
