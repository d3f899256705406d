"""What a check asks of Redis: the limits that apply to it and their keys. Pure.

Checks of one action that name the same kinds of subject differ only in the names. What they share is compiled once into a
template; planning one check is then a matter of joining strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from enforcer.check import Check, InvalidCheck, canonicalize_ip
from enforcer.policy import Limit, Policies, Policy
from lua.keys import join_subjects, name_abuse, name_bucket, name_subject

MOST_TEMPLATES = 4096
"""Distinct actions are the callers' choice: past this many templates all are compiled anew."""

MOST_RETURNING = 20_000
"""Requests remembered because they were refused: whoever sends them sends them again."""

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


class Form(NamedTuple):
    """A request that names one subject: its kind, and the template of all such requests."""

    kind: str
    template: Template


@dataclass(slots=True)
class Planner:
    """Plans checks under one policies document; keeps at most ``MOST_TEMPLATES`` templates."""

    policies: Policies
    forms: dict[tuple[bytes, bytes], Form] = field(default_factory=dict)
    """Of Envoy's usual requests, by the bytes of domain and key."""
    _templates: dict[object, Template] = field(default_factory=dict)
    _returning: dict[bytes, Plan] = field(default_factory=dict)

    def remember_form(self, head: tuple[bytes, bytes], form: Form) -> None:
        """Keep the form of a usual request; at most as many as there are templates."""
        if len(self.forms) >= MOST_TEMPLATES:
            self.forms.clear()
        self.forms[head] = form

    def recall(self, request: bytes) -> Plan | None:
        """The plan of a request, byte for byte, that was refused lately."""
        return self._returning.get(request)

    def expect(self, request: bytes, plan: Plan) -> None:
        """Remember the plan of a request that was refused."""
        if request not in self._returning:
            if len(self._returning) >= MOST_RETURNING:
                self._returning.clear()
            self._returning[request] = plan

    def find(self, action: str, descriptors: tuple[Descriptor, ...]) -> Template:
        """Find or compile the template of this form."""
        template = self._templates.get((action, descriptors))
        if template is None:
            if len(self._templates) >= MOST_TEMPLATES:
                self._templates.clear()
            template = self._templates[action, descriptors] = compile_template(self.policies, action, descriptors)
        return template

    def plan(self, check: Check) -> Plan:
        """Plan one check: it is one descriptor, of the user and of the declared attributes that it carries.

        Raises:
            InvalidCheck: The cost is above the capacity of a limit that applies: it could never pass.
        """
        subjects = [name_subject("user", check.user_id)]
        descriptor: Descriptor = _USER_ALONE
        if check.attributes:
            for kind in self.policies.attribute_kinds:
                value = check.attributes.get(kind)
                if value:
                    descriptor = (*descriptor, (kind, len(subjects)))
                    subjects.append(name_attribute(kind, value))
        template = self.find(check.action, (descriptor,))
        if check.cost > template.smallest_capacity:
            enforced = [limit for limit in template.limits if not limit.is_shadow]
            limit = min(enforced, key=lambda limit: limit.terms.capacity)
            raise InvalidCheck(f"cost is {check.cost}; limit {limit.label} holds at most {limit.terms.capacity} tokens")
        return build_plan(check, template, subjects)


_USER_ALONE: Descriptor = (("user", 0),)


def build_plan(check: Check, template: Template, subjects: Sequence[str]) -> Plan:
    """Join the names of one check's subjects, in the order of their slots, into keys."""
    keys = [name_abuse(subject) for subject in subjects]
    for texts, slots in template.buckets:
        if len(slots) == 1:
            keys.append(texts[0] + subjects[slots[0]] + texts[1])
        else:
            names = [subjects[slot] for slot in slots]
            keys.append("".join([part for pair in zip(texts, [*names, ""], strict=True) for part in pair]))
    return Plan(check, template, tuple(subjects), tuple(keys))


def name_attribute(kind: str, value: str) -> str:
    """Name the subject that an attribute is."""
    return name_subject(kind, canonicalize_ip(value) if kind == "ip" else value)
