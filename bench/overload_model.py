"""A backend that queues, in virtual time, and other control laws to compare with. Pure.

The backend serves first come, first served. Latency is its service time plus the queue; callers leave after a timeout, but what
they asked for is worked on all the same, which is how overload becomes collapse. Limits let pass at most their refill times the
factor. What was seen reaches the controller, and its factor the enforcers, after a delay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from detector.throttle import CLOSED, State, Terms, Tick, advance, measure_load

STEPS = 20
"""Of one second."""
TIMEOUT_S = 2.0
SLO_S = 0.2
BEFORE_S = 30
"""Every scenario begins with so long in good order."""

TERMS = Terms(lowest_us=60_000, highest_us=SLO_S * 1e6, most_errors=0.1, floor=0.02)


@dataclass(frozen=True, slots=True)
class World:
    """What one second is like.

    Attributes:
        demand: Requests a second that callers want.
        capacity: Requests a second that the backend completes.
        service_s: Latency without a queue.
        failing: Share of requests that fail at once.
        is_seen: Whether backends report.
    """

    demand: float = 800.0
    capacity: float = 1000.0
    service_s: float = 0.02
    failing: float = 0.0
    is_seen: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """A course of events.

    Attributes:
        name: For the table.
        seconds: How long it lasts, the good order at its begin included.
        world: What second it is.
        recovers_s: Second from which on all could be well again.
    """

    name: str
    seconds: int
    world: Callable[[int], World]
    recovers_s: int = BEFORE_S


class Law(Protocol):
    """A controller."""

    def follow(self, tick: Tick) -> None:
        """Take a tick into account."""

    @property
    def admits(self) -> tuple[float, float]:
        """Factor on the limits, and share of the checks that pass at all."""


@dataclass(slots=True)
class Ratchet:
    """The law of :mod:`detector.throttle`."""

    terms: Terms = TERMS
    state: State = field(default_factory=State)

    def follow(self, tick: Tick) -> None:
        """Take a tick into account."""
        self.state = advance(self.state, tick, self.terms)

    @property
    def admits(self) -> tuple[float, float]:
        """Factor and share."""
        return self.state.factor, self.state.probes / CLOSED


@dataclass(slots=True)
class Unthrottled:
    """Nothing is ever lowered."""

    def follow(self, tick: Tick) -> None:
        """Take nothing into account."""

    @property
    def admits(self) -> tuple[float, float]:
        """Factor and share."""
        return 1.0, 1.0


@dataclass(slots=True)
class Aimd:
    """Additive increase, multiplicative decrease, with the same setpoint; as in TCP, and in Netflix's AIMDLimit (0.9, +1)."""

    factor: float = 1.0
    state: State = field(default_factory=lambda: State(baseline_us=SLO_S / 4 * 1e6))

    def follow(self, tick: Tick) -> None:
        """Take a tick into account."""
        if tick.is_telling:
            is_over = measure_load(self.state, tick, TERMS) > 1
            self.factor = max(TERMS.floor, self.factor * 0.9) if is_over else min(1.0, self.factor + 0.05)

    @property
    def admits(self) -> tuple[float, float]:
        """Factor and share."""
        return self.factor, 1.0


@dataclass(slots=True)
class Gradient:
    """Factor times setpoint over latency, between a half and 1, plus headroom; as Netflix's Gradient2Limit, smoothing 0.2."""

    factor: float = 1.0
    state: State = field(default_factory=lambda: State(baseline_us=SLO_S / 4 * 1e6))

    def follow(self, tick: Tick) -> None:
        """Take a tick into account."""
        if tick.is_telling:
            gradient = max(0.5, min(1.0, 1 / max(1e-9, measure_load(self.state, tick, TERMS))))
            aimed = self.factor * gradient + 0.02
            self.factor = min(1.0, max(TERMS.floor, self.factor * 0.8 + aimed * 0.2 if gradient == 1 else aimed))

    @property
    def admits(self) -> tuple[float, float]:
        """Factor and share."""
        return self.factor, 1.0


@dataclass(frozen=True, slots=True)
class Second:
    """What one second was like."""

    at_s: int
    factor: float
    probes: float
    admitted: float
    p90_s: float
    good: float
    """Requests that were answered well within the SLO."""
    possible: float
    """Requests that could have been."""


@dataclass(frozen=True, slots=True)
class Score:
    """How one run went, in seconds each.

    Attributes:
        violated_s: Seconds in which the p90 of what was let pass was above the SLO, or more failed than is allowed, each by the
            share of the usual requests to which it was done: who is refused at once does not wait for a timeout.
        lost_s: What could have been answered well and was not, over what is possible in a second of good order.
        recovered_s: From when all could be well again until it stayed so.
    """

    violated_s: float
    lost_s: float
    recovered_s: float

    @property
    def total_s(self) -> float:
        """The sum: less is better."""
        return self.violated_s + self.lost_s + self.recovered_s


@dataclass(slots=True)
class Backend:
    """A queue, served first come, first served."""

    queue: float = 0.0
    """Requests, those of callers who left included."""

    def serve(self, arrivals: float, world: World) -> float:
        """Take what arrives in one step; gives the latency that it will have."""
        self.queue = max(0.0, self.queue + arrivals * (1 - world.failing) - world.capacity / STEPS)
        # A caller's timeout ends its connection, and a real server's backlog is bounded too.
        self.queue = min(self.queue, world.capacity * 2 * TIMEOUT_S)
        return world.service_s + self.queue / max(1.0, world.capacity)


def play(scenario: Scenario, law: Law, *, headroom: float, delay_s: int, others: tuple[Law, ...] = ()) -> Iterator[Second]:
    """Play one scenario.

    Args:
        scenario: What happens.
        law: The controller in force.
        headroom: The limits' refill, over the demand in good order.
        delay_s: From the end of a second until the factor that it led to is in force; at least 1.
        others: Controllers that see the same and whose factor is in force every other second: as if two wrote in turn.
    """
    backend = Backend()
    pending: deque[tuple[float, float]] = deque([(1.0, 1.0)] * delay_s)
    refill = headroom * World().demand
    for at_s in range(scenario.seconds):
        world = scenario.world(at_s)
        factor, share = pending.popleft()
        admitted = min(world.demand * share, refill * factor)
        latencies = [backend.serve(admitted / STEPS, world) for _ in range(STEPS)]
        late = sum(latency > TIMEOUT_S for latency in latencies) / STEPS
        seen = sorted(min(latency, TIMEOUT_S) for latency in latencies)
        ok = admitted * (1 - world.failing) / STEPS
        good = sum(ok for latency in latencies if latency <= SLO_S)
        # Failures are fast: they draw the quantile to what lies below them.
        rank = max(0.0, (0.9 - world.failing) / max(1e-9, 1 - world.failing))
        p90_s = seen[min(STEPS - 1, int(rank * STEPS))]
        errors = min(1.0, world.failing + late * (1 - world.failing))
        tick = Tick(
            at_ms=(at_s + 1) * 1000,
            count=round(admitted) if world.is_seen else 0,
            errors=round(errors * admitted),
            p90_us=p90_s * 1e6,
            admitted_tokens=round(admitted),
            refill_milli_per_s=round(refill * 1000),
        )
        for each in (law, *others):
            each.follow(tick)
        chosen = (law, *others)[at_s % (1 + len(others))]
        pending.append(chosen.admits)
        can_be_good = world.service_s <= SLO_S
        possible = min(world.demand, world.capacity) * (1 - world.failing) if can_be_good else 0.0
        bad_p90_s = TIMEOUT_S if errors > TERMS.most_errors else p90_s
        yield Second(at_s, factor, share, admitted, bad_p90_s, good, possible)


def score(seconds: list[Second], recovers_s: int) -> Score:
    """Judge one run from the end of the good order on."""
    judged = [second for second in seconds if second.at_s >= BEFORE_S]
    violated = [second for second in judged if second.p90_s > SLO_S]
    lost = sum(max(0.0, second.possible - second.good) for second in judged) / World().demand
    unwell = [
        at_s
        for at_s in range(recovers_s, judged[-1].at_s + 1)
        if any(second.at_s == at_s for second in violated) or not _serves(judged, at_s)
    ]
    return Score(
        sum(second.admitted for second in violated) / World().demand,
        lost,
        float(max(unwell) + 1 - recovers_s) if unwell else 0.0,
    )


def _serves(judged: list[Second], at_s: int) -> bool:
    """Whether about that second four fifths of what was possible was answered well."""
    near = [second for second in judged if abs(second.at_s - at_s) <= 2]
    return sum(second.good for second in near) >= 0.8 * sum(second.possible for second in near)


def _during(first_s: int, last_s: int, **changes: float) -> Callable[[int], World]:
    def world(at_s: int) -> World:
        return replace(World(), **changes) if first_s <= at_s < last_s else World()  # type: ignore[arg-type] # numbers all

    return world


def _ramp(at_s: int) -> World:
    """Demand grows to twice what is usual within two minutes."""
    return World(demand=800.0 * (1 + min(1.0, max(0, at_s - BEFORE_S) / 120)))


def _creep(at_s: int) -> World:
    """The backend becomes slower by and by, as a leak makes it, and stays within its SLO."""
    return World(service_s=0.02 + 0.08 * min(1.0, at_s / 150))


def _poison(at_s: int) -> World:
    """What is learned first is a bad time, then capacity halves."""
    return World(
        service_s=0.15 if at_s < BEFORE_S else 0.02, capacity=400.0 if BEFORE_S + 5 <= at_s < BEFORE_S + 65 else 1000.0
    )


def _blind(at_s: int) -> World:
    world = _during(BEFORE_S, BEFORE_S + 60, capacity=400.0)(at_s)
    return replace(world, is_seen=not BEFORE_S + 20 <= at_s < BEFORE_S + 24)


SCENARIOS = (
    Scenario("capacity halves and returns", 180, _during(BEFORE_S, BEFORE_S + 60, capacity=400.0), BEFORE_S + 60),
    Scenario("demand grows to twice", 210, _ramp),
    Scenario("load did not cause the latency", 120, _during(BEFORE_S, BEFORE_S + 3, service_s=0.5), BEFORE_S + 3),
    Scenario("everything times out", 150, _during(BEFORE_S, BEFORE_S + 30, capacity=1.0, service_s=3.0), BEFORE_S + 30),
    Scenario("fast failures", 150, _during(BEFORE_S, BEFORE_S + 30, failing=0.6), BEFORE_S + 30),
    Scenario("slower by and by, within the SLO", 210, _creep),
    Scenario("poisoned baseline", 180, _poison, BEFORE_S + 65),
    Scenario("four seconds unseen", 180, _blind, BEFORE_S + 60),
)
"""What is played, in every regime."""

HEADROOMS = (1.2, 3.0, 10.0)
DELAYS_S = (1, 3)
LAWS: dict[str, Callable[[], Law]] = {"Ratchet": Ratchet, "AIMD": Aimd, "gradient": Gradient, "none": Unthrottled}


def judge(scenario: Scenario, law: str, *, headroom: float, delay_s: int) -> Score:
    """Play one scenario under one law, and judge it."""
    return score(list(play(scenario, LAWS[law](), headroom=headroom, delay_s=delay_s)), scenario.recovers_s)
