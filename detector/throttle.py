"""The adaptive throttle's control law: from how a backend fares to a factor on the limits of one action. Pure.

One tick is one second of one action. Overload lowers the factor by what it lacks to the setpoint, and first to the share of the
limits that is in use, so that it bites however far below their limits the callers are. Then it waits until the effect can be
seen. Calm raises it: fast to where overload was last met, slowly beyond. Where the lowest factor does not suffice, the action
opens like a circuit breaker and few probes pass.

Sources: ``docs/throttle.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

TICK_MS = 1000
TTL_MS = 5 * TICK_MS
"""A factor that nobody renews for so long ends: a dead detector fails open."""
UNLOWERED = 1.0
CLOSED = 1000
"""Per mille of the checks that pass the circuit breaker while it is closed: all."""
FEWEST_PROBES, MOST_PROBES = 10, 50
"""Per mille of the checks that pass while it is open. Raised by the former with each tick that does not show overload."""
FEWEST_SAMPLES = 5
"""Of fewer requests a tick says nothing: one slow request is no overload."""

_TOLERANCE = 2.0
"""Setpoint over baseline. Queueing doubles the latency at about nine tenths of a backend's capacity."""
_LARGEST_STEP = 0.5
_DAMPING = 0.5
"""Exponent on setpoint over latency. Latency grows faster than load does: the whole ratio cuts twice what is too much."""
_SURE = 1.5
"""Overload beyond this is acted on at once; below it is a jitter, unless the next tick shows it too."""
_COOLS_MS = 2 * TICK_MS
_WAITS_MS = 6 * TICK_MS
"""After a step: until its effect is seen, at least the former, at most the latter."""
_DOUBT = 0.75
"""Further steps of one overload may be due to its backlog, so the memory of where it was met follows them only so far."""
_CALM = 0.8
"""Of the setpoint; between this and 1 lies the dead band."""
_FAST, _SLOW = 1.8, 1.02
_NEAR = 0.9
"""Of where overload was last met: up to here the factor is raised fast."""
_FORGETS = 0.001
"""The memory of where overload was met grows by so much times the square of the calm ticks: capacity may have come back."""
_SEEN = 0.7
"""Share of the factor that is in use once its last raises have reached those who ask."""
_PATIENCE = 5
"""Ticks without samples that are waited for before they count as calm: nothing is reported where nothing is asked."""
_LEARNS_UP, _LEARNS_DOWN = 1 / 60, 1 / 15
"""Share of the way to the latest p90 that the baseline goes with a calm tick."""
_HIGHEST_PRIORITY_GAIN = 0.05
_USUAL_PRIORITY = 5


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator says of an action's throttle; see :class:`detector.rules.Throttle`.

    Attributes:
        lowest_us: The setpoint is never below, however fast the backend is.
        highest_us: The setpoint is never above, however slow it has become. What the action promises its users.
        most_errors: Share of failed requests, 0 to 1, above which there is overload whatever the latency.
        floor: The lowest factor, 0 to 1, before the action opens.
    """

    lowest_us: float
    highest_us: float
    most_errors: float
    floor: float


@dataclass(frozen=True, slots=True)
class Tick:
    """One second of one action.

    Attributes:
        at_ms: Its end.
        count: Requests that ended, without those that callers cancelled.
        errors: Of these, those that failed by the backend's fault, timeouts among them.
        p90_us: Their latency, timeouts as the timeout; any number where ``count`` is 0.
        admitted_tokens: What the enforcers let pass.
        refill_milli_per_s: Of the limits of those subjects who were let pass, at factor 1; 0 where it is not known.
        priority: Of the action's policy, 1 to 10; 10 is throttled last.
    """

    at_ms: int
    count: int = 0
    errors: int = 0
    p90_us: float = 0.0
    admitted_tokens: int = 0
    refill_milli_per_s: int = 0
    priority: int = _USUAL_PRIORITY

    @property
    def used_share(self) -> float:
        """Of the limits, at factor 1; 1 where it is not known."""
        if not self.refill_milli_per_s:
            return 1.0
        return self.admitted_tokens * 1000 / self.refill_milli_per_s

    @property
    def is_telling(self) -> bool:
        """Whether enough requests ended to judge by."""
        return self.count >= FEWEST_SAMPLES


@dataclass(frozen=True, slots=True)
class State:
    """Where the throttle of one action stands.

    Attributes:
        factor: On the action's limits, above 0, at most 1.
        probes: Per mille of the checks that pass the circuit breaker; ``CLOSED`` where it is closed.
        baseline_us: The p90 that is usual; 0 while nothing is known.
        met: The share of the limits in use when overload was last met, which calm ticks forget.
        lowered_ms: When the factor was last lowered, or the action closed.
        calm: Ticks in a row without overload.
        silent: Ticks in a row that told nothing.
        load: What the last tick that told something showed; above 1 is overload.
        steps: How often the factor was lowered since there was last no overload.
        strained: Ticks in a row that showed overload.
    """

    factor: float = UNLOWERED
    probes: int = CLOSED
    baseline_us: float = 0.0
    met: float = UNLOWERED
    lowered_ms: int = 0
    calm: int = 0
    silent: int = 0
    load: float = 0.0
    steps: int = 0
    strained: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker is open."""
        return self.probes < CLOSED

    @property
    def per_mille(self) -> int:
        """The factor as it is written, at least 1."""
        return max(1, round(self.factor * 1000))

    @property
    def is_resting(self) -> bool:
        """Whether nothing is lowered."""
        return self.per_mille == 1000 and not self.is_open


def find_setpoint_us(state: State, terms: Terms, priority: int = _USUAL_PRIORITY) -> float:
    """The p90 above which there is overload.

    Actions that share a backend see the same latency. Those of a lower priority have a lower setpoint, so that they give way
    first, and the others only where that did not suffice.
    """
    usual_us = state.baseline_us * _TOLERANCE or terms.highest_us
    bounded_us = min(max(usual_us, terms.lowest_us), terms.highest_us)
    return bounded_us * (1 + _HIGHEST_PRIORITY_GAIN * (priority - _USUAL_PRIORITY))


def measure_load(state: State, tick: Tick, terms: Terms) -> float:
    """How far the backend is loaded: above 1 is overload. The worse of latency over setpoint and errors over their bound."""
    setpoint_us = find_setpoint_us(state, terms, tick.priority)
    return max(tick.p90_us / setpoint_us, tick.errors / tick.count / terms.most_errors)


def advance(state: State, tick: Tick, terms: Terms) -> State:
    """Take one tick into account. Ticks come in order; of one that is missing nothing is known, and nothing is done.

    Args:
        state: Before the tick; ``State()`` for an action that was never seen.
        tick: What was seen.
        terms: Of the action.

    Returns:
        What is to be in force from now on, for ``TTL_MS`` at most.
    """
    if not tick.is_telling:
        return _pass_silence(state)
    load = measure_load(state, tick, terms)
    state = replace(state, silent=0)
    if state.is_open:
        return _probe(state, load, tick, terms)
    if load > 1:
        return replace(_lower(state, load, tick, terms), load=load, calm=0, strained=state.strained + 1)
    state = _learn(replace(state, load=load, steps=0, strained=0, calm=state.calm + 1), tick)
    return state if load > _CALM else _raise(state, tick)


def _pass_silence(state: State) -> State:
    silent = state.silent + 1
    if state.is_open:
        return replace(state, silent=silent, probes=min(state.probes + FEWEST_PROBES, MOST_PROBES))
    if silent <= _PATIENCE or state.is_resting:
        return replace(state, silent=silent)
    return replace(state, silent=silent, factor=min(UNLOWERED, state.factor * _FAST))


def _probe(state: State, load: float, tick: Tick, terms: Terms) -> State:
    if load > 1:
        return replace(state, probes=FEWEST_PROBES)
    if state.probes < MOST_PROBES:
        return replace(state, probes=state.probes + FEWEST_PROBES)
    return replace(state, probes=CLOSED, factor=terms.floor, lowered_ms=tick.at_ms, calm=0)


def _lower(state: State, load: float, tick: Tick, terms: Terms) -> State:
    if (load <= _SURE and state.load <= 1) or state.strained < tick.priority - _USUAL_PRIORITY:
        return state
    since_ms = tick.at_ms - state.lowered_ms
    used = min(state.factor, tick.used_share)
    is_seen = tick.used_share <= state.factor * 1.1
    if since_ms < (_COOLS_MS if is_seen else _WAITS_MS):
        return state
    factor = used * max(_LARGEST_STEP, load**-_DAMPING)
    if factor < terms.floor:
        if state.factor <= terms.floor:
            return replace(state, probes=FEWEST_PROBES)
        factor = terms.floor
    met = used if state.steps == 0 else state.met * _DOUBT
    return replace(state, factor=factor, met=met, lowered_ms=tick.at_ms, steps=state.steps + 1)


def _raise(state: State, tick: Tick) -> State:
    if state.is_resting or tick.at_ms - state.lowered_ms < _COOLS_MS:
        return state
    met = min(UNLOWERED, state.met * (1 + _FORGETS * state.calm**2))
    near = met * _NEAR
    is_fast = state.factor < near and tick.used_share >= state.factor * _SEEN
    factor = min(state.factor * _FAST, near) if is_fast else min(UNLOWERED, state.factor * _SLOW)
    return replace(state, factor=factor, met=met)


def _learn(state: State, tick: Tick) -> State:
    """Follow what is usual, slowly, and only what is seen while nothing is lowered: a throttled backend is a fast one."""
    if not state.baseline_us:
        return replace(state, baseline_us=tick.p90_us)
    if not state.is_resting:
        return state
    share = _LEARNS_UP if tick.p90_us > state.baseline_us else _LEARNS_DOWN
    return replace(state, baseline_us=state.baseline_us + (tick.p90_us - state.baseline_us) * share)


def describe(state: State, tick: Tick, terms: Terms) -> str:
    """Say for a person what a tick showed, with the state before it."""
    if not tick.is_telling:
        return f"{tick.count} requests ended, too few to judge by; {state.silent + 1} such ticks in a row"
    setpoint_us = find_setpoint_us(state, terms, tick.priority)
    return (
        f"p90 {tick.p90_us / 1000:.0f} ms against a setpoint of {setpoint_us / 1000:.0f} ms, "
        f"errors {tick.errors / tick.count:.1%} of {tick.count} against {terms.most_errors:.1%}, "
        f"{tick.used_share:.1%} of the limits in use"
    )
