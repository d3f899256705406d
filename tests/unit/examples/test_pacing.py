import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import ParamSpec

import pytest

from examples.pacing import send_paced

P = ParamSpec("P")


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next timer: the tests neither sleep nor depend on the machine's speed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def in_virtual_time(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=Clock) as runner:
            runner.run(test(*args, **kwargs))

    return run


def now_s() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_items_are_sent_at_their_times() -> None:
    sent: list[tuple[float, str]] = []

    async def send(item: str) -> None:
        sent.append((now_s(), item))

    pace = await send_paced([(0, "a"), (1, "b"), (5, "c")], send)
    assert [item for _, item in sent] == ["a", "b", "c"]
    assert [at_s for at_s, _ in sent] == pytest.approx([0, 1, 5])
    assert (pace.sent, pace.behind, pace.stopped_early) == (3, 0, False)
    assert pace.took_s == pytest.approx(5)


@in_virtual_time
async def test_speed_shortens_the_waits() -> None:
    async def send(_: int) -> None: ...

    assert (await send_paced([(0, 1), (100, 2)], send, speed=50)).took_s == pytest.approx(2)


@in_virtual_time
async def test_slow_answers_do_not_slow_the_sends() -> None:
    starts: list[float] = []

    async def send(_: int) -> None:
        starts.append(now_s())
        await asyncio.sleep(10)

    await send_paced([(0, 1), (1, 2), (2, 3)], send)
    assert starts == pytest.approx([0, 1, 2])


@in_virtual_time
async def test_sends_beyond_the_concurrency_wait_and_count_as_behind() -> None:
    async def send(_: int) -> None:
        await asyncio.sleep(10)

    pace = await send_paced([(0, 1), (0, 2), (0, 3)], send, concurrency=1)
    assert pace.behind == 2
    assert pace.longest_lag_s == pytest.approx(20)


@in_virtual_time
async def test_without_a_speed_only_the_concurrency_bounds() -> None:
    under_way = most = 0

    async def send(_: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1)
        under_way -= 1

    pace = await send_paced([(1000.0 * n, n) for n in range(10)], send, speed=None, concurrency=5)
    assert (most, pace.behind) == (5, 0)
    assert pace.took_s == pytest.approx(2)


@in_virtual_time
async def test_stop_ends_an_endless_series_and_waits_for_what_is_under_way() -> None:
    stop, ended = asyncio.Event(), []

    async def send(item: int) -> None:
        if item == 3:
            stop.set()
        await asyncio.sleep(5)
        ended.append(item)

    pace = await send_paced(((float(n), n) for n in range(1_000_000)), send, stop=stop)
    assert pace.stopped_early
    assert ended == [0, 1, 2, 3]


@in_virtual_time
async def test_time_bounds_an_endless_series() -> None:
    async def send(_: int) -> None: ...

    pace = await send_paced(((float(n), n) for n in range(1_000_000)), send, seconds=2.5)
    assert (pace.sent, pace.stopped_early) == (3, True)
    assert pace.took_s == pytest.approx(2.5)


@pytest.mark.parametrize(("speed", "concurrency"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
@in_virtual_time
async def test_pace_that_cannot_be_kept_is_refused(speed: float, concurrency: int) -> None:
    async def send(_: int) -> None: ...

    with pytest.raises(ValueError, match="above 0"):
        await send_paced([], send, speed=speed, concurrency=concurrency)
