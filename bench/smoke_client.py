"""Calls from Python, for the smoke test alone: it compares the CPU of servers, so a slow client does no harm.

``python -m bench.smoke_client 127.0.0.1:50051 8000`` makes so many ShouldRateLimit calls, 64 at a time, each for a user of
its own, and fails unless every one is answered OK.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import sys

import grpc
import uvloop

from bench.methods import ID_BYTES, should_rate_limit
from ratchet.envoy import rls_pb2

UNDER_WAY = 64


async def _make_calls(address: str, calls: int) -> int:
    method = should_rate_limit("bench_open", [["user_id"]])
    body = bytes.fromhex(method.body_hex)
    hole = method.holes[0][0]
    run, numbers = secrets.token_hex(8), itertools.count()
    refused = 0

    async def keep_calling() -> None:
        nonlocal refused
        while (number := next(numbers)) < calls:
            user_id = f"{run}-{number}".ljust(ID_BYTES, "-").encode()
            answer = await call(body[:hole] + user_id + body[hole + ID_BYTES :])
            refused += rls_pb2.RateLimitResponse.FromString(answer).overall_code != rls_pb2.RateLimitResponse.OK

    async with grpc.aio.insecure_channel(address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method.path)
        await asyncio.gather(*[keep_calling() for _ in range(UNDER_WAY)])
    return refused


if __name__ == "__main__":
    failed = uvloop.run(_make_calls(sys.argv[1], int(sys.argv[2])))
    sys.exit(f"{failed} calls were not answered OK" if failed else 0)
