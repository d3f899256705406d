"""Many processes that spend from one bucket at once are, together, held to its terms."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack

from redis import Redis

from tests.integration.enforcer.hammer import KEY, TERMS

PROCESSES = 4


def test_processes_that_hammer_one_user_are_admitted_what_the_limit_allows(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.delete(KEY)
    command = [sys.executable, "-m", "tests.integration.enforcer.hammer", redis_url, "2"]
    with ExitStack() as stack:
        hammers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(PROCESSES)
        ]
        for each in hammers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        results = []
        for each in hammers:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        for each in hammers:
            output, _ = each.communicate(timeout=60)
            results.append(json.loads(output))
    admitted = sum(result[0] for result in results)
    span_us = max(result[3] for result in results) - min(result[2] for result in results)
    allowed = TERMS.capacity + TERMS.refill * span_us / TERMS.period_ticks
    assert allowed - 1 <= admitted <= allowed
    assert sum(result[1] for result in results) > 2 * admitted, "they asked for much more than there was"
