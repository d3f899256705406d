"""A traffic simulator: ``python -m examples.traffic --target http://127.0.0.1:8080 --seconds 60``.

People, a bursty job, an office behind one address, a brute-forcer, a credential stuffer and a slow scraper, as
``examples.actors`` describes them; the same for the same ``--seed``.
"""

from __future__ import annotations

import asyncio
import signal
from itertools import islice
from typing import Annotated

import typer
from rich.console import Console

from examples.actors import Step, play_everybody
from examples.pacing import Pace, send_paced
from examples.tally import Tally, show_tally
from examples.targets import Target, TargetError, open_target


async def simulate(
    target: Target, *, seed: int, speed: float, seconds: float, most: int, stop: asyncio.Event
) -> tuple[Tally, Pace]:
    """Play everybody against a target.

    Args:
        target: Opened already.
        seed: Chooses the traffic.
        speed: Seconds of the scenario that pass in one; rates are that much higher.
        seconds: Ends after so much real time.
        most: Ends after so many requests.
        stop: Ends it when set; what is under way is waited for.
    """
    tally = Tally()

    async def send(step: Step) -> None:
        tally.add(await target.send(step))

    timed = ((step.at_s, step) for step in islice(play_everybody(seed), most))
    pace = await send_paced(timed, send, speed=speed, stop=stop, seconds=seconds)
    return tally, pace


async def _run(address: str, *, seed: int, speed: float, seconds: float, most: int) -> tuple[Tally, Pace]:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with open_target(address) as target:
        return await simulate(target, seed=seed, speed=speed, seconds=seconds, most=most, stop=stop)


def main(
    target: Annotated[
        str, typer.Option(help="http://host:port of the backend, or grpc://host:port.")
    ] = "http://127.0.0.1:8080",
    seed: Annotated[int, typer.Option(help="The same seed gives the same traffic.")] = 1,
    speed: Annotated[float, typer.Option(min=0.01, max=1000, help="Play so many times faster.")] = 1.0,
    seconds: Annotated[float, typer.Option(min=0.1, max=1e7, help="End after so much time.")] = 60.0,
    most: Annotated[int, typer.Option("--count", min=1, max=10**9, help="End after so many requests.")] = 1_000_000,
) -> None:
    """Simulate traffic, then print what it came to. Ctrl-C ends it early, with the summary."""
    try:
        tally, pace = asyncio.run(_run(target, seed=seed, speed=speed, seconds=seconds, most=most))
    except TargetError as error:
        typer.echo(f"--target: {error}", err=True)
        raise typer.Exit(2) from error
    Console().print(show_tally(tally, pace))


if __name__ == "__main__":
    typer.run(main)
