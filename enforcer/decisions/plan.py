"""What a check asks of Redis: the limits that apply to it and their keys. Pure.

Checks of one action that name the same kinds of subject differ only in the names. What they share is compiled once into a
template; planning one check is then a matter of joining strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from enforcer.limits.check import Check
from enforcer.limits.policy import Limit, Policies, Policy, find_strictest
from enforcer.limits.policy_document import WithoutRedis
from lua.keys import join_subjects, name_abuse, name_bucket, name_subject

Descriptor = tuple[tuple[str, int], ...]
"""What one descriptor names: kind, and the slot of the name. Subjects have the first slots, further attributes the last."""


class Chosen(NamedTuple):
    """A descriptor whose limit does not follow from the kinds that it names: the request gave it, or it was found by values."""

    named: Descriptor
    limit: Limit | None
    """None: nothing limits it."""
    slots: tuple[int, ...] = ()
    """Of the names that tell the limit's buckets apart, one for each kind of its ``per``."""
    is_unlimited: bool = False
    """A person wrote that nothing limits it."""
    is_by_value: bool = False
    """Other values of the same kinds may be limited otherwise."""


class KeyForm(NamedTuple):
    """How a key is made of names: ``texts[0] + name(slots[0]) + texts[1] + ...``."""

    texts: tuple[str, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What all checks of one action and of the same kinds of subject share."""

    action: str
    policy: Policy
    """The policy that matched; of the limits, some may be of policies that apply on top of it."""
    version: str
    kinds: tuple[str, ...]
    """Kind of the subject in each slot."""
    limits: tuple[Limit, ...]
    positions: tuple[tuple[int, ...], ...]
    """For each descriptor, the positions of the limits that apply to it."""
    smallest_capacity: int
    """Of the limits that are enforced: no check of a higher cost could ever pass. Below 0: none of any cost could."""
    buckets: tuple[KeyForm, ...]
    """The bucket key of each limit."""
    without_redis: WithoutRedis
    attributes: tuple[str, ...] = ()
    """Kind of the further attribute in each slot after the subjects."""
    varies: bool = False
    """Which limits apply, or in which forms, depends on more than the kinds that are named: the tier, who it is, values."""
    is_overridden: bool = False
    """A subject has other terms, which may end or change at any time."""
    is_incomplete: bool = False
    """A subject that is required is absent: the check is refused. The limits are those that require it, without buckets."""
    unlimited: frozenset[int] = frozenset()
    """Descriptors of which a person wrote that nothing limits them."""
    tells_more: bool = False
    """Answers to Envoy say more than codes and limits."""


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


def compile_template(policies: Policies, action: str, descriptors: Sequence[Descriptor | Chosen]) -> Template:
    """Find which limits apply to checks of this form, each in the form that those of no tier have.

    A limit applies to a descriptor that names every kind of its ``per``; one that is ``per: []`` applies to all. A limit and
    its bucket that two descriptors share is taken from once.
    """
    applying = policies.match_all(action)
    kinds: dict[int, str] = {}
    places: dict[tuple[Limit, tuple[int, ...]], int] = {}
    positions = []
    for descriptor in descriptors:
        names = descriptor.named if isinstance(descriptor, Chosen) else descriptor
        kinds.update((slot, kind) for kind, slot in names)
        mine = []
        for limit, named in _choose(applying, descriptor):
            mine.append(places.setdefault((limit, named), len(places)))
        positions.append(tuple(mine))
    named_kinds = [kinds[slot] for slot in sorted(kinds)]
    found = {limit for limit, _ in places}
    absent = tuple(limit for policy in applying for limit in policy.limits if limit.is_required and limit not in found)
    limits = absent or tuple(limit for limit, _ in places)
    chosen = [each if isinstance(each, Chosen) else None for each in descriptors]
    unlimited = frozenset(place for place, each in enumerate(chosen) if each is not None and each.is_unlimited)
    return Template(
        action,
        applying[-1],
        policies.version,
        tuple(kind for kind in named_kinds if kind in policies.subjects),
        limits,
        (tuple(range(len(absent))),) * len(descriptors) if absent else tuple(positions),
        -1 if absent else find_smallest_capacity(limits),
        () if absent else tuple(_form_key(limit, action, named) for limit, named in places),
        find_strictest(applying),
        tuple(kind for kind in named_kinds if kind not in policies.subjects),
        varies=any(each is not None and each.is_by_value for each in chosen)
        or (not absent and any(limit.varies for limit in limits)),
        is_incomplete=bool(absent),
        unlimited=unlimited,
        tells_more=bool(unlimited) or any(limit.told is not None and limit.told.metadata for limit in limits),
    )


def _choose(applying: Iterable[Policy], descriptor: Descriptor | Chosen) -> Iterator[tuple[Limit, tuple[int, ...]]]:
    """The limits that apply to one descriptor, each with the slots that tell its buckets apart."""
    if isinstance(descriptor, Chosen):
        if descriptor.limit is not None:
            yield descriptor.limit, descriptor.slots
        return
    slots = dict(descriptor)
    for policy in applying:
        for limit in policy.limits:
            if all(kind in slots or kind == "action" for kind in limit.per):
                yield limit, tuple(slots[kind] for kind in limit.per if kind != "action")


def vary_template(template: Template, limits: tuple[Limit, ...], *, is_overridden: bool) -> Template:
    """The same template with other forms of its limits, in their order."""
    return replace(
        template,
        limits=limits,
        smallest_capacity=find_smallest_capacity(limits),
        buckets=tuple(
            _form_key(limit, template.action, form.slots) for limit, form in zip(limits, template.buckets, strict=True)
        ),
        varies=True,
        is_overridden=is_overridden,
    )


def find_smallest_capacity(limits: Sequence[Limit]) -> int:
    """What no cost may be above, if it is ever to pass."""
    return min((limit.terms.capacity for limit in limits if not limit.is_shadow), default=2**63)


def _form_key(limit: Limit, action: str, slots: tuple[int, ...]) -> KeyForm:
    mark = "\0"  # stands for a name; no name holds it
    parts = [name_subject("action", action) if kind == "action" else mark for kind in limit.per]
    key = name_bucket(join_subjects(parts), limit.policy, limit.name, limit.tier, is_shadow=limit.is_shadow)
    return KeyForm(tuple(key.split(mark)), slots)


_ABUSE_HEAD, _ABUSE_TAIL = name_abuse("\0").split("\0")


def build_plan(check: Check, template: Template, subjects: Sequence[str], attributes: Sequence[str] = ()) -> Plan:
    """Join the names of one check's subjects and further attributes, in the order of their slots, into keys."""
    keys = [f"{_ABUSE_HEAD}{subject}{_ABUSE_TAIL}" for subject in subjects]
    known = [*subjects, *attributes] if attributes else subjects
    for texts, slots in template.buckets:
        if len(texts) == 2:
            head, tail = texts
            keys.append(f"{head}{known[slots[0]]}{tail}")
        else:
            names = [known[slot] for slot in slots]
            keys.append("".join([part for pair in zip(texts, [*names, ""], strict=True) for part in pair]))
    return Plan(check, template, tuple(subjects), tuple(keys))
