"""Sends a timed series at its own pace: an open loop, as real clients are.

An open loop sends when the time has come, whether earlier sends were answered or not, so a slow server shows as latency and
not as a slower load (Schroeder, Wierman, Harchol-Balter: Open Versus Closed, NSDI 2006).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

BEHIND_AFTER_S = 1.0
"""A send that starts this late is counted as behind: the series is no longer sent at its own pace."""


@dataclass(slots=True)
class Pace:
    """How a series was sent.

    Attributes:
        sent: How many were.
        behind: How many of them started more than ``BEHIND_AFTER_S`` late.
        longest_lag_s: The latest start.
        took_s: From the first to the end of the last.
        stopped_early: The time was up, or ``stop`` was set, before the series ended.
    """

    sent: int = 0
    behind: int = 0
    longest_lag_s: float = 0.0
    took_s: float = 0.0
    stopped_early: bool = False


async def send_paced(
    timed: Iterable[tuple[float, Item]],
    send: Callable[[Item], Awaitable[None]],
    *,
    speed: float | None = 1.0,
    concurrency: int = 256,
    stop: asyncio.Event | None = None,
    seconds: float | None = None,
) -> Pace:
    """Send every item at its time, and return when the last one was answered.

    Args:
        timed: Seconds from the start, ascending, and what to send; read lazily, so it may be endless.
        send: Must not raise; whatever it raises ends the series.
        speed: How many seconds of the series pass in one; None sends as fast as ``concurrency`` allows.
        concurrency: Most sends under way; when they are, further ones wait and the series falls behind.
        stop: Ends the series when set; sends under way are waited for.
        seconds: Ends the series after that many seconds of real time; None for no end but its own.

    Raises:
        ValueError: ``speed`` or ``concurrency`` is not above 0.
    """
    if concurrency < 1 or (speed is not None and speed <= 0):
        raise ValueError("speed and concurrency have to be above 0")
    loop = asyncio.get_running_loop()
    started = loop.time()
    ends = None if seconds is None else started + seconds
    stop = stop or asyncio.Event()
    pace = Pace()
    places = asyncio.Semaphore(concurrency)

    async def send_one(item: Item) -> None:
        try:
            await send(item)
        finally:
            places.release()

    async with asyncio.TaskGroup() as sends:
        for at_s, item in timed:
            due = started if speed is None else started + at_s / speed
            if ends is not None and due >= ends:
                await _wait(stop, ends - loop.time())
                pace.stopped_early = True
                break
            await _wait(stop, due - loop.time())
            await places.acquire()
            if stop.is_set() or (ends is not None and loop.time() >= ends):
                places.release()
                pace.stopped_early = True
                break
            if speed is not None:
                lag_s = loop.time() - due
                pace.longest_lag_s = max(pace.longest_lag_s, lag_s)
                pace.behind += lag_s > BEHIND_AFTER_S
            pace.sent += 1
            sends.create_task(send_one(item))
    pace.took_s = loop.time() - started
    return pace


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    if seconds > 0:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            return
