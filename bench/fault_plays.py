"""The faults that are played: how each is made, how it is ended, and what is promised meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bench.trouble import TroubleProxy
from devstack.stack import Stack

FLUSH_EVERY_S = 0.05
LATENCY_S = 0.2


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults are made on."""

    stack: Stack
    proxy: TroubleProxy
    """Between the enforcer and Redis."""
    redis: Redis
    """To Redis directly."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        name: For the command line.
        promise: For the table.
        make: Holds the fault while its context is entered.
        forgets: Redis comes back empty: every bucket is full again.
        from_start: The enforcer is started while it lasts.
    """

    name: str
    promise: str
    make: Callable[[Scene], AbstractAsyncContextManager[None]]
    forgets: bool = False
    from_start: bool = False


@asynccontextmanager
async def _stop(scene: Scene) -> AsyncIterator[None]:
    await scene.stack.pause("redis")
    try:
        yield
    finally:
        await scene.stack.resume("redis")


@asynccontextmanager
async def _kill(scene: Scene) -> AsyncIterator[None]:
    await scene.stack.kill("redis")
    try:
        yield
    finally:
        await scene.stack.restart("redis")


@asynccontextmanager
async def _demote(scene: Scene) -> AsyncIterator[None]:
    # A replica of nobody: it keeps its data, and refuses to write, as a master does that a failover has left behind.
    await scene.redis.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        await scene.redis.replicaof("NO", "ONE")


@asynccontextmanager
async def _flush_scripts(scene: Scene) -> AsyncIterator[None]:
    async def flush() -> None:
        while True:
            await scene.redis.script_flush()
            await asyncio.sleep(FLUSH_EVERY_S)

    flushing = asyncio.ensure_future(flush())
    try:
        yield
    finally:
        flushing.cancel()
        with contextlib.suppress(asyncio.CancelledError, RedisError):
            await flushing


@asynccontextmanager
async def _fill_memory(scene: Scene) -> AsyncIterator[None]:
    await scene.redis.config_set("maxmemory", "1")
    try:
        yield
    finally:
        await scene.redis.config_set("maxmemory", "0")


@asynccontextmanager
async def _delay(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.delay_s = LATENCY_S
    try:
        yield
    finally:
        scene.proxy.delay_s = 0.0


@asynccontextmanager
async def _cut(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.cuts = True
    try:
        yield
    finally:
        scene.proxy.cuts = False


@asynccontextmanager
async def _stop_kafka(scene: Scene) -> AsyncIterator[None]:
    await scene.stack.pause("kafka")
    try:
        yield
    finally:
        await scene.stack.resume("kafka")


@asynccontextmanager
async def _kill_kafka(scene: Scene) -> AsyncIterator[None]:
    await scene.stack.kill("kafka")
    try:
        yield
    finally:
        await scene.stack.restart("kafka")


FAULTS = (
    Fault("redis-stopped", "degraded after the deadline; what the stalled server still runs takes nothing", _stop),
    Fault("redis-killed", "degraded, then exact on an emptied Redis", _kill, forgets=True),
    Fault("redis-absent", "starts and decides by `without_redis`", _kill, forgets=True, from_start=True),
    Fault("redis-read-only", "a master that a failover left behind: degraded, a new connection is tried", _demote),
    Fault("scripts-flushed", "NOSCRIPT has no effect: loaded and repeated once, exact", _flush_scripts),
    Fault("redis-full", "maxmemory with noeviction: degraded, check by check", _fill_memory),
    Fault("redis-slow", "200 ms of latency: degraded; late calls take nothing", _delay),
    Fault("replies-cut", "connections reset in the middle of a reply: degraded, never called twice", _cut),
    Fault("kafka-stopped", "decisions do not wait; events are kept and sent", _stop_kafka),
    Fault("kafka-killed", "decisions do not wait; events are kept and sent", _kill_kafka),
)
