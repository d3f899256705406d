"""Plan a request straight from its bytes, once one like it was parsed. Pure.

Requests of one caller differ in little but the names of subjects. Where two of the same length have the same bytes outside the
values of those names, they have the same fields at the same places: they ask the same of others. So what was worked out for the
first of them, its *layout*, plans all that follow: a comparison, and a slice for each name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from enforcer.decisions.plan import Plan, Template, build_plan
from enforcer.limits.check import Check
from lua.keys import name_attribute, name_subject

MOST_LAYOUTS = 4096
"""Lengths and constant bytes are the callers' choice: past this many layouts all are learned anew."""
MOST_ALIKE = 16
"""Layouts of one length that are looked through."""
LONGEST_REQUEST_BYTES = 1024
LONGEST_VALUE_BYTES = 255

_INTEGER, _LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
"""Wire types."""
_ONE_BYTE = 0x80
_LARGEST_SHIFT = 63

Name = tuple[str, int, int]
"""What a value is called (``user`` or an attribute), and where it lies: first byte and the one behind the last."""


class Layout(NamedTuple):
    """What requests of one form have in common."""

    constants: tuple[tuple[int, bytes], ...]
    """Where they begin; everything that is not a value."""
    spans: tuple[tuple[int, int], ...]
    """Of the values."""
    user: int
    """Which value is the user's id; below 0 for none."""
    attributes: tuple[tuple[str, int], ...]
    """Name of each attribute, and which value it is."""
    subjects: tuple[tuple[str, int], ...]
    """Kind of each subject in the order of the slots, and which value it is."""
    others: tuple[tuple[str, int], ...]
    """The same of the further attributes that keys are made of."""
    template: Template
    cost: int


@dataclass(slots=True)
class Layouts:
    """The layouts of one kind of message under one document. Bounded by ``MOST_LAYOUTS``."""

    _layouts: dict[int, list[Layout]] = field(default_factory=dict)
    """By a request's length and its second byte, which is the length of its first field."""
    _count: int = 0

    def plan(self, payload: bytes) -> Plan | None:
        """Plan a request whose layout is known; None: parse it."""
        known = self._layouts.get(len(payload) << 8 | payload[1]) if len(payload) > 1 else None
        if known is None:
            return None
        for layout in known:
            for start, constant in layout.constants:
                if not payload.startswith(constant, start):
                    break
            else:
                try:
                    return _apply(layout, payload)
                except UnicodeDecodeError:
                    return None
        return None

    def learn(self, payload: bytes, names: Sequence[Name] | None, plan: Plan) -> None:
        """Keep the layout of a request that was parsed and planned.

        Args:
            payload: The request.
            names: Its values in the order of their places, as a walk over its bytes found them; None if it is of a rare form.
            plan: What it asks for.
        """
        layout = _find_layout(payload, names, plan) if names else None
        if layout is None:
            return
        if self._count >= MOST_LAYOUTS:
            self._layouts.clear()
            self._count = 0
        self._count += 1
        alike = self._layouts.setdefault(len(payload) << 8 | payload[1], [])
        alike.append(layout)
        if len(alike) > MOST_ALIKE:
            del alike[0]


def _apply(layout: Layout, payload: bytes) -> Plan:
    _, spans, user, attributes, subjects, others, template, cost = layout
    if len(spans) == 1 and user == 0:
        text = payload[spans[0][0] : spans[0][1]].decode()
        return build_plan(Check(text, template.action, cost, {}), template, (name_subject("user", text),))
    values = [payload[start:end].decode() for start, end in spans]
    check = Check(
        values[user] if user >= 0 else "",
        template.action,
        cost,
        {name: values[place] for name, place in attributes},
    )
    named = [
        name_subject(kind, values[place]) if kind == "user" else name_attribute(kind, values[place]) for kind, place in subjects
    ]
    further = [name_attribute(kind, values[place]) for kind, place in others] if others else ()
    return build_plan(check, template, named, further)


def _find_layout(payload: bytes, names: Sequence[Name], plan: Plan) -> Layout | None:
    """Find what is constant; None where the plan depends on more than each value by itself."""
    places = {name: place for place, (name, _, _) in enumerate(names)}
    check, template = plan.check, plan.template
    kinds = (*template.kinds, *template.attributes)
    if (
        len(payload) > LONGEST_REQUEST_BYTES
        or len(places) != len(names)
        or plan.costs
        or check.suppressed
        or template.varies
        or any(not 1 <= end - start <= LONGEST_VALUE_BYTES for _, start, end in names)
        or places.keys() - {"user"} != check.attributes.keys()
        or ("user" in places) != bool(check.user_id)
        or len(set(kinds)) != len(kinds)
        or not places.keys() >= set(kinds)
    ):
        return None
    constants, last = [], 0
    for _, start, end in names:
        constants.append((last, payload[last:start]))
        last = end
    if last < len(payload):
        constants.append((last, payload[last:]))
    return Layout(
        tuple(constants),
        tuple((start, end) for _, start, end in names),
        places.get("user", -1),
        tuple((name, place) for name, place in places.items() if name != "user"),
        tuple((kind, places[kind]) for kind in template.kinds),
        tuple((kind, places[kind]) for kind in template.attributes),
        template,
        check.cost,
    )


def walk_fields(payload: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Walk over the length-delimited fields of a message: number, first byte, the byte behind the last.

    Fields of fixed length and integers are passed over (protobuf's encoding guide). Ends with number 0, which no field has, at
    what is no such message, or holds a group.
    """
    while start < end:
        tag, start = _read_varint(payload, start, end)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, start = _read_varint(payload, start, end)
            if start + length <= end:
                yield tag >> 3, start, start + length
            start += length
        elif kind == _INTEGER:
            _, start = _read_varint(payload, start, end)
        else:
            start += _FIXED_BYTES.get(kind, end)
    if start > end:
        yield 0, end, end


def _read_varint(payload: bytes, start: int, end: int) -> tuple[int, int]:
    """Read an integer that ends before ``end``; otherwise the next place is one behind ``end``."""
    value = shift = 0
    while start < end and shift <= _LARGEST_SHIFT:
        byte = payload[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < _ONE_BYTE:
            return value, start
        shift += 7
    return 0, end + 1
