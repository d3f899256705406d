"""What a check asks of Redis: the limits that apply to it and their keys. Pure.

Checks of one action that name the same kinds of subject differ only in the names. What they share is compiled once into a
template; planning one check is then a matter of joining strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from enforcer.check import Check, canonicalize_ip
from enforcer.policy import Limit, Policies, Policy
from lua.keys import join_subjects, name_abuse, name_bucket, name_subject

Descriptor = tuple[tuple[str, int], ...]
"""What one descriptor names: kind, and the slot of the name among the subjects of the check."""


class KeyForm(NamedTuple):
    """How a key is made of names: ``texts[0] + name(slots[0]) + texts[1] + ...``."""

    texts: tuple[str, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What all checks of one action and of the same kinds of subject share."""

    action: str
    policy: Policy
    version: str
    kinds: tuple[str, ...]
    """Kind of the subject in each slot."""
    limits: tuple[Limit, ...]
    positions: tuple[tuple[int, ...], ...]
    """For each descriptor, the positions of the limits that apply to it."""
    smallest_capacity: int
    """Of the limits that are enforced: no check of a higher cost could ever pass."""
    buckets: tuple[KeyForm, ...]
    """The bucket key of each limit."""


class Plan(msgspec.Struct, frozen=True, gc=False):
    """One check with what it asks of Redis."""

    check: Check
    template: Template
    subjects: tuple[str, ...]
    """Names of the declared subjects, as ``kind=value``."""
    keys: tuple[str, ...]
    """The abuse keys of the subjects, then the bucket keys of the limits."""
    costs: tuple[int, ...] = ()
    """Of each limit, where they differ; empty: each costs what the check does."""

    @property
    def cost_of_each(self) -> tuple[int, ...]:
        """What each limit is asked for, in tokens; below 0 it is given back."""
        return self.costs or (self.check.cost,) * len(self.template.limits)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that apply, in the policy's order."""
        return self.template.limits

    @property
    def bucket_keys(self) -> tuple[str, ...]:
        """Keys of the limits' buckets."""
        return self.keys[len(self.subjects) :]


def compile_template(policies: Policies, action: str, descriptors: Sequence[Descriptor]) -> Template:
    """Find which limits apply to checks of this form.

    A limit applies to a descriptor that names every kind of its ``per``; one that is ``per: []`` applies to all. A limit and
    its bucket that two descriptors share is taken from once.
    """
    policy = policies.match(action)
    kinds: dict[int, str] = {}
    places: dict[tuple[str, tuple[int, ...]], int] = {}
    limits: list[Limit] = []
    buckets: list[KeyForm] = []
    positions = []
    for descriptor in descriptors:
        slots = dict(descriptor)
        kinds.update((slot, kind) for kind, slot in descriptor)
        mine = []
        for limit in policy.limits:
            if any(kind not in slots and kind != "action" for kind in limit.per):
                continue
            named = tuple(slots[kind] for kind in limit.per if kind != "action")
            place = places.setdefault((limit.name, named), len(limits))
            if place == len(limits):
                limits.append(limit)
                buckets.append(_form_key(limit, action, named))
            mine.append(place)
        positions.append(tuple(mine))
    return Template(
        action,
        policy,
        policies.version,
        tuple(kinds[slot] for slot in sorted(kinds)),
        tuple(limits),
        tuple(positions),
        min((limit.terms.capacity for limit in limits if not limit.is_shadow), default=2**63),
        tuple(buckets),
    )


def _form_key(limit: Limit, action: str, slots: tuple[int, ...]) -> KeyForm:
    mark = "\0"  # stands for a name; no name holds it
    parts = [name_subject("action", action) if kind == "action" else mark for kind in limit.per]
    return KeyForm(tuple(name_bucket(join_subjects(parts), limit.policy, limit.name).split(mark)), slots)


_ABUSE_HEAD, _ABUSE_TAIL = name_abuse("\0").split("\0")


def build_plan(check: Check, template: Template, subjects: Sequence[str]) -> Plan:
    """Join the names of one check's subjects, in the order of their slots, into keys."""
    keys = [f"{_ABUSE_HEAD}{subject}{_ABUSE_TAIL}" for subject in subjects]
    for texts, slots in template.buckets:
        if len(texts) == 2:
            head, tail = texts
            keys.append(f"{head}{subjects[slots[0]]}{tail}")
        else:
            names = [subjects[slot] for slot in slots]
            keys.append("".join([part for pair in zip(texts, [*names, ""], strict=True) for part in pair]))
    return Plan(check, template, tuple(subjects), tuple(keys))


def name_attribute(kind: str, value: str) -> str:
    """Name the subject that an attribute is."""
    return name_subject(kind, canonicalize_ip(value) if kind == "ip" else value)
