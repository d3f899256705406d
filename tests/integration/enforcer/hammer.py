"""A process that takes tokens of one bucket as fast as it can: ``python -m tests.integration.enforcer.hammer URL SECONDS``."""

from __future__ import annotations

import json
import sys
from typing import Any

from redis import Redis

from enforcer.bucket import Status, Terms
from lua.scripts import CHECK
from tests.integration.enforcer.script_call import ScriptCheck, pack

TERMS = Terms.of(50, 50, 1_000_000)
KEY = "rate_limit:{user=hammered}:search:per_user"


def hammer(url: str, for_us: int) -> tuple[int, int, int, int]:
    """Admitted, calls, and the server's time at the first and at the last call."""
    keys, argv = pack([ScriptCheck((KEY,), (TERMS,))])
    admitted = calls = first_us = now_us = 0
    with Redis.from_url(url) as client:
        client.script_load(CHECK.source)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        while not first_us or now_us - first_us < for_us:
            reply: Any = client.evalsha(CHECK.sha, len(keys), *keys, *argv)
            now_us, result = reply
            first_us = first_us or now_us
            admitted += result[0] == Status.ALLOW
            calls += 1
    return admitted, calls, first_us, now_us


if __name__ == "__main__":
    sys.stdout.write(json.dumps(hammer(sys.argv[1], int(float(sys.argv[2]) * 1e6))) + "\n")
