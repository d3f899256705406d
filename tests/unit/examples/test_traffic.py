import asyncio
from typing import Self

import typer
from typer.testing import CliRunner

from examples import traffic
from examples.actors import Step
from examples.tally import Answer


class Remembering:
    def __init__(self) -> None:
        self.steps: list[Step] = []

    async def send(self, step: Step) -> Answer:
        self.steps.append(step)
        return Answer(step.user, step.action, "allow", "", 0.001)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


async def simulate(seed: int, *, stop: asyncio.Event | None = None) -> Remembering:
    target = Remembering()
    await traffic.simulate(target, seed=seed, speed=10_000, seconds=60, most=300, stop=stop or asyncio.Event())
    return target


async def test_traffic_is_bounded_in_count_and_the_same_for_the_same_seed() -> None:
    first, again, other = await simulate(1), await simulate(1), await simulate(2)
    assert len(first.steps) == 300
    assert first.steps == again.steps
    assert first.steps != other.steps


async def test_traffic_that_is_stopped_sends_nothing_more() -> None:
    stop = asyncio.Event()
    stop.set()
    assert (await simulate(1, stop=stop)).steps == []


def test_target_of_an_unknown_form_is_said() -> None:
    app = typer.Typer()
    app.command()(traffic.main)
    result = CliRunner().invoke(app, ["--target", "127.0.0.1:8080"])
    assert result.exit_code == 2
    assert "grpc://host:port" in result.output
