"""A check on a Redis Cluster: what each slot decides of it, and what the slots' readings come to. Pure.

A script call reaches the keys of one slot alone. A check whose subjects lie in several is asked in parts: one after the other
in the order of their slots, which is the same on every enforcer, so that of two checks that compete for the same buckets one
gets all of them. A part that refuses ends it: what earlier parts took is given back, and the later ones are only read, so that
the answer is as complete as one server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import msgspec

from enforcer.decisions.decision import Reading
from enforcer.decisions.plan import Plan, Template
from enforcer.limits.bucket import UNLOWERED, Status
from lua.keys import find_slot

UNKNOWN_LEVEL = -1


class Part(msgspec.Struct, frozen=True, gc=False):
    """What one slot decides of a check."""

    slot: int
    plan: Plan
    """The check with the subjects and limits of this slot alone."""
    positions: tuple[int, ...]
    """Of its limits, in the whole check's."""

    @property
    def takes(self) -> bool:
        """Whether tokens are asked for here, so that the slot may refuse."""
        return any(cost > 0 for cost in self.plan.cost_of_each)


def split_plan(plan: Plan) -> tuple[Part, ...]:
    """Split a check by the slots of its keys, in the order of the slots; at least one part."""
    places: dict[int, list[int]] = {}
    for place, key in enumerate(plan.keys):
        places.setdefault(find_slot(key), []).append(place)
    if len(places) < 2:
        return (Part(next(iter(places), 0), plan, tuple(range(len(plan.template.limits)))),)
    subjects, costs = len(plan.subjects), plan.costs
    parts = []
    for slot in sorted(places):
        mine = tuple(place for place in places[slot] if place < subjects)
        positions = tuple(place - subjects for place in places[slot] if place >= subjects)
        part = Plan(
            plan.check,
            _select(plan.template, mine, positions),
            tuple(plan.subjects[place] for place in mine),
            tuple(plan.keys[place] for place in places[slot]),
            tuple(costs[position] for position in positions) if costs else (),
        )
        parts.append(Part(slot, part, positions))
    return tuple(parts)


@lru_cache(maxsize=4096)
def _select(template: Template, subjects: tuple[int, ...], positions: tuple[int, ...]) -> Template:
    """The template of one part: what the script call is packed from."""
    return replace(
        template,
        kinds=tuple(template.kinds[place] for place in subjects),
        limits=tuple(template.limits[position] for position in positions),
        positions=(),
        buckets=(),
    )


def read_only(part: Part) -> Plan:
    """The part as a check that takes nothing."""
    return msgspec.structs.replace(part.plan, check=msgspec.structs.replace(part.plan.check, cost=0), costs=())


def give_back(part: Part, reading: Reading) -> tuple[Plan, Reading]:
    """The refund of what a part took, and its reading as if it had taken nothing.

    A limit in shadow mode that was short of tokens has paid nothing, and is given nothing.
    """
    paid = tuple(0 if reading.refused >> place & 1 else max(0, cost) for place, cost in enumerate(part.plan.cost_of_each))
    check = msgspec.structs.replace(part.plan.check, cost=-1)
    refund = msgspec.structs.replace(part.plan, check=check, costs=tuple(-cost for cost in paid))
    levels = tuple(
        level + cost * limit.terms.period_ticks
        for level, cost, limit in zip(reading.levels, paid, part.plan.limits, strict=True)
    )
    return refund, msgspec.structs.replace(reading, levels=levels)


def judge_unasked(part: Part, reading: Reading) -> Reading:
    """What a part that was only read would have said, had it been asked for its tokens.

    Below factor 1 the level at factor 1 is not told: then none of its limits counts as one that refuses by itself.
    """
    if reading.ban is not None:
        return reading
    refused, is_short = 0, False
    limits = part.plan.template.limits
    for place, (limit, cost, level) in enumerate(zip(limits, part.plan.cost_of_each, reading.levels, strict=True)):
        if level < cost * limit.terms.period_ticks:
            refused |= 1 << place
            is_short = is_short or not limit.is_shadow
    is_lowered = reading.factor < UNLOWERED
    status = Status.ALLOW if not is_short else Status.THROTTLED if is_lowered else Status.LIMIT
    return msgspec.structs.replace(reading, status=status, refused=refused, refused_at_1=0 if is_lowered else refused)


def merge_readings(plan: Plan, parts: Sequence[Part], readings: Sequence[Reading]) -> Reading:
    """What the parts' readings come to: the longest ban of all; else every limit's level, refused where one slot refused.

    The time is that of the slot that refused, each by its own server's clock. The factor is the lowest of all slots: each
    lowers the limits of its own slot alone.
    """
    sent_s = min(reading.sent_s for reading in readings)
    bans = [reading for reading in readings if reading.ban is not None]
    if bans:
        longest = max(bans, key=_end_of_ban)
        return msgspec.structs.replace(longest, sent_s=sent_s)
    levels = [UNKNOWN_LEVEL] * len(plan.template.limits)
    refused = refused_at_1 = 0
    for part, reading in zip(parts, readings, strict=True):
        for place, position in enumerate(part.positions):
            levels[position] = reading.levels[place]
            refused |= (reading.refused >> place & 1) << position
            refused_at_1 |= (reading.refused_at_1 >> place & 1) << position
    decisive = min(readings, key=_rank)
    return Reading(
        decisive.now_us,
        decisive.status,
        min(reading.factor for reading in readings),
        refused,
        refused_at_1,
        tuple(levels),
        warned=next((reading.warned for reading in readings if reading.warned is not None), None),
        sent_s=sent_s,
    )


def _end_of_ban(reading: Reading) -> int:
    assert reading.ban is not None  # noqa: S101 only asked of such
    return reading.ban.until_ms


def _rank(reading: Reading) -> int:
    """Refused by a limit before refused by an open action or a throttle before allowed."""
    return (Status.LIMIT, Status.OPEN, Status.THROTTLED, Status.ALLOW).index(reading.status)
