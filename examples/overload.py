"""A backend that a short burst pushes over its edge, with the throttle and without: ``python -m examples.overload``.

It serves 40 searches a second with ease, in 20 ms each. Once more than 4 are under way each takes 400 ms; then 40 a second
keep it there for good, long after the burst. Needs nothing but ``make setup``; runs on random ports.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from bench.curves import Panel, draw
from examples.pacing import send_paced
from examples.system import ROOT, System, SystemSpec

POLICIES, RULES = ROOT / "examples" / "overload_policies.yaml", ROOT / "examples" / "overload_rules.yaml"
PICTURE = ROOT / "docs" / "img" / "throttle-live.svg"
CAPACITY = 4
USERS, USUAL_PER_S, BURST_PER_S = 50, 40, 300
CALM_S, BURST_S = 10, 3
SLO_S = 0.2
GIVES_UP_S = 5.0


@dataclass(slots=True)
class Course:
    """What callers saw, by second in which they asked.

    Attributes:
        served_s: How long each served request took.
        refused: Requests refused.
    """

    served_s: list[list[float]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def note(self, second: int, took_s: float, *, is_served: bool) -> None:
        """Note one answer; one that never came counts as served after the timeout."""
        while len(self.refused) <= second:
            self.served_s.append([])
            self.refused.append(0)
        if is_served:
            self.served_s[second].append(took_s)
        else:
            self.refused[second] += 1

    def list_p90_ms(self) -> list[float]:
        """The p90 of what was served, by second; 0 where nothing was."""
        return [sorted(each)[math.ceil(len(each) * 0.9) - 1] * 1000 if each else 0.0 for each in self.served_s]

    def count_good(self) -> list[float]:
        """Requests served within the SLO, by second."""
        return [float(sum(took_s <= SLO_S for took_s in each)) for each in self.served_s]

    def find_recovery_s(self) -> int | None:
        """Seconds from the end of the burst until four fifths of the usual load are served within the SLO, and stay so.

        Averaged over five seconds, for probes and steps come in seconds; None where that never came.
        """
        good = self.count_good()
        means = [sum(good[at : at + 5]) / 5 for at in range(len(good) - 4)]
        unwell = [at for at, mean in enumerate(means) if mean < 0.8 * USUAL_PER_S]
        recovered = (unwell[-1] + 1 if unwell else 0) - CALM_S - BURST_S
        return None if unwell and unwell[-1] == len(means) - 1 else max(0, recovered)


def plan_load(seconds: int) -> Iterator[tuple[float, int]]:
    """When each request is sent, in seconds from the start, and its number."""
    number = 0
    for second in range(seconds):
        rate = BURST_PER_S if CALM_S <= second < CALM_S + BURST_S else USUAL_PER_S
        for place in range(rate):
            yield second + place / rate, number
            number += 1


async def run_course(*, seconds: int, is_throttled: bool) -> Course:
    """Run the whole system once.

    Args:
        seconds: How long the load lasts.
        is_throttled: Whether the rules have a throttle.

    Raises:
        DevstackError: Something cannot start; nothing runs then.
    """
    course = Course()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.yaml"
        text = RULES.read_text(encoding="utf-8")
        rules.write_text(text if is_throttled else text.partition("throttle:")[0], encoding="utf-8")
        spec = SystemSpec(policies=POLICIES, rules=rules, backend_capacity=CAPACITY)
        timeout = aiohttp.ClientTimeout(total=GIVES_UP_S)
        async with System(spec) as system, aiohttp.ClientSession(timeout=timeout) as session:
            began_s = time.monotonic()
            url = f"{system.addresses.backend}/search"

            async def send(number: int) -> None:
                sent_s = time.monotonic()
                is_served = True
                try:
                    async with session.get(url, headers={"x-user": f"user{number % USERS}"}) as response:
                        is_served = response.status == 200
                except (aiohttp.ClientError, TimeoutError):
                    pass
                course.note(int(sent_s - began_s), time.monotonic() - sent_s, is_served=is_served)

            await send_paced(plan_load(seconds), send, concurrency=2000)
    return course


def draw_courses(courses: dict[str, Course]) -> str:
    """Draw what callers saw."""
    return draw(
        f"{USUAL_PER_S} searches/s, {BURST_PER_S}/s for {BURST_S} s; limits at 10 times the load; one run each",
        [
            Panel(
                "p90 of what is served, ms", {name: course.list_p90_ms() for name, course in courses.items()}, 600,
                (SLO_S * 1000, "SLO"),
            ),
            Panel("served within the SLO, requests/s", {name: course.count_good() for name, course in courses.items()}, 60),
        ],
    )  # fmt: skip


def describe(name: str, course: Course) -> str:
    """Say how one course ended."""
    recovery_s = course.find_recovery_s()
    end = "never came back" if recovery_s is None else f"back for good {recovery_s} s after the burst"
    return f"{name}: {end}; {sum(course.count_good()):.0f} served within {SLO_S * 1000:.0f} ms, {sum(course.refused)} refused"


def main(
    seconds: Annotated[int, typer.Option(min=CALM_S + BURST_S + 10, help="Length of each run.")] = 70,
    picture: Annotated[Path, typer.Option(help="Where the plot goes.")] = PICTURE,
) -> None:
    """Play the overload with the throttle and without, and draw both."""
    courses = {}
    for name, is_throttled in (("with Ratchet", True), ("without", False)):
        print(f"{name}: starting, then {seconds} s", flush=True)
        courses[name] = asyncio.run(run_course(seconds=seconds, is_throttled=is_throttled))
        print(describe(name, courses[name]), flush=True)
    picture.write_text(draw_courses(courses), encoding="utf-8")
    print(f"wrote {picture}")


if __name__ == "__main__":
    typer.run(main)
