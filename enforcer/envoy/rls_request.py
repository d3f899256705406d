"""Envoy's requests to plans: what they name, what each descriptor costs, and which limits they bring or find. Pure.

Never an error on content, for Envoy lets a request pass when the call fails: what is out of bounds is hashed, bytes that are no
text are read as far as they are, and a request that names more than one call may ask for meets a limit that refuses everything.

The domain is the action. In a descriptor ``user`` and ``user_id`` name the user, ``remote_address`` is the ip, every other key
is the attribute of that name, unless the policies document says otherwise (``envoy:``). A limit applies to a descriptor that
names all of its ``per``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
from google.protobuf.message import DecodeError

from enforcer.calls.access import Caller
from enforcer.decisions.layouts import Name, walk_fields
from enforcer.decisions.plan import Chosen, Descriptor, Plan, build_plan, compile_template
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import LARGEST_EXACT
from enforcer.limits.check import CALLER, LARGEST_TEXT_BYTES, MOST_ATTRIBUTES, Check, bound_action
from enforcer.limits.envoy_document import UNITS_S
from enforcer.limits.envoy_domain import Match, fit_terms, name_kind
from enforcer.limits.policy import Limit, Policies, Told
from lua.keys import name_attribute
from ratchet.envoy import descriptor_pb2, raw_pb2, rls_pb2, unit_pb2

MOST_ENTRIES = 512
"""Of all descriptors of a request: each may name a key of the one call."""

MOST_COST = LARGEST_EXACT + 1
"""More than any bucket holds; hits above it ask for as much."""

_UNITS: dict[int, str] = {number: name for name, number in unit_pb2.RateLimitUnit.items() if name.lower() in UNITS_S}
_LARGEST_PERIOD_S = 100 * UNITS_S["year"]
"""An override of a longer period is counted as one of this."""

_DESCRIPTORS, _ENTRIES = 2, 1
"""Numbers of fields: of a request, of a descriptor."""
_SURELY_SHORT = LARGEST_TEXT_BYTES // 4
"""Characters: at most 4 bytes each."""


def parse_request(payload: bytes) -> rls_pb2.RateLimitRequest:
    """Read a request whose texts may be any bytes: those that are no UTF-8 are written out in hexadecimal.

    Raises:
        google.protobuf.message.DecodeError: These bytes are no such message.
    """
    try:
        return rls_pb2.RateLimitRequest.FromString(payload)
    except DecodeError:
        raw = raw_pb2.RawRateLimitRequest.FromString(payload)
    request = rls_pb2.RateLimitRequest(domain=_decode(raw.domain), hits_addend=raw.hits_addend)
    for descriptor in raw.descriptors:
        read = request.descriptors.add(is_negative_hits=descriptor.is_negative_hits)
        read.entries.extend(
            descriptor_pb2.RateLimitDescriptor.Entry(key=_decode(entry.key), value=_decode(entry.value))
            for entry in descriptor.entries
        )
        if descriptor.HasField("limit"):
            read.limit.CopyFrom(descriptor.limit)
        if descriptor.HasField("hits_addend"):
            read.hits_addend.CopyFrom(descriptor.hits_addend)
    return request


def sign_request(request: rls_pb2.RateLimitRequest, caller: Caller) -> None:
    """Say in the first descriptor, and there alone, who calls: a limit of the caller's own is asked once for a request."""
    for descriptor in request.descriptors:
        for place in reversed([place for place, entry in enumerate(descriptor.entries) if entry.key == CALLER]):
            del descriptor.entries[place]
    if request.descriptors:
        request.descriptors[0].entries.add(key=CALLER, value=caller.name)


def _decode(text: bytes) -> str:
    return text.decode(errors="backslashreplace")


def plan_payload(payload: bytes, planner: Planner) -> Plan:
    """Plan one request from its bytes: as :func:`plan_request` would, but parsed only where no earlier one was like it.

    Raises:
        google.protobuf.message.DecodeError: These bytes are no such message.
    """
    plan = planner.requests.plan(payload)
    if plan is None or (planner.overrides and planner.is_overridden(plan)):
        plan = plan_request(parse_request(payload), planner)
        planner.requests.learn(payload, _find_values(payload, planner.policies), plan)
    return plan


def _find_values(payload: bytes, policies: Policies) -> list[Name] | None:
    """Find the values of a request that parses; None where an entry has not just a key and a value."""
    names = []
    for field_number, descriptor, descriptor_end in walk_fields(payload, 0, len(payload)):
        if field_number != _DESCRIPTORS:
            continue
        for part, entry, entry_end in walk_fields(payload, descriptor, descriptor_end):
            if part != _ENTRIES:
                continue
            key, value = (*walk_fields(payload, entry, entry_end), None, None)[:2]
            if key is None or value is None or (key[0], value[0]) != (1, 2) or value[2] != entry_end:
                return None
            name = _decode(payload[key[1] : key[2]])
            names.append((policies.envoy_keys.get(name, name), value[1], value[2]))
    return names


@dataclass(slots=True)
class _Names:
    """What the descriptors of one request name, each once."""

    policies: Policies
    user_id: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    subjects: dict[tuple[str, str], int] = field(default_factory=dict)
    others: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, key: str, value: str) -> tuple[str, str]:
        """Note one entry for the event; returns its kind and its value within bounds."""
        if len(value) > _SURELY_SHORT:
            value = _bound_text(value)
        kind = self.policies.envoy_keys.get(key, key)
        if kind == "user":
            self.user_id = self.user_id or value
        elif len(self.attributes) < MOST_ATTRIBUTES:
            self.attributes.setdefault(_bound_text(kind), value)
        return kind, value

    def number(self, kind: str, value: str) -> int:
        """The slot of a name; of one that is no subject, the complement of its place among such."""
        if kind in self.policies.subjects:
            return self.subjects.setdefault((kind, value), len(self.subjects))
        return ~self.others.setdefault((kind, value), len(self.others))

    def name(self, kind: str, value: str) -> tuple[str, int]:
        """The kind and slot of an entry that tells buckets apart."""
        kind = kind if kind in self.policies.subjects else name_kind(kind)
        return kind, self.number(kind, value)

    def settle(self, slot: int) -> int:
        """The slot in the plan, where those of subjects come first."""
        return slot if slot >= 0 else len(self.subjects) + ~slot


def plan_request(request: rls_pb2.RateLimitRequest, planner: Planner) -> Plan:
    """Plan one request of any content. A subject that several descriptors name is one subject.

    A limit that several descriptors share is taken from once: as much as the one asks for that asks for most.
    """
    policies, asked = planner.policies, request.descriptors
    action = bound_action(policies.envoy_actions.get(request.domain, request.domain))
    default = request.hits_addend or 1
    if sum(max(1, len(descriptor.entries)) for descriptor in asked) > MOST_ENTRIES:
        return _plan_refusal(Check("", action, default), len(asked), planner)
    names = _Names(policies)
    root = policies.domains.get(request.domain)
    matches = [root.match(descriptor.entries) if root is not None else None for descriptor in asked]
    replaced = {name for match in matches if match is not None and match.node is not None for name in match.node.replaces}
    descriptors = [
        _choose(descriptor, match, replaced, names, policies.match(action).name)
        for descriptor, match in zip(asked, matches, strict=True)
    ]
    if names.others:  # their slots come after those of the subjects, which are only now known
        descriptors = [_settle(descriptor, names) for descriptor in descriptors]
    hits = [_read_hits(descriptor, default) for descriptor in asked] or [default]
    most = max(hits)
    plan = planner.build(
        Check(names.user_id, action, most if most > 0 else min(hits), names.attributes),
        tuple(descriptors),
        [name_attribute(kind, value) for kind, value in names.subjects],
        [name_attribute(kind, value) for kind, value in names.others],
    )
    return plan if min(hits) == most else _price(plan, hits)


def _choose(
    descriptor: descriptor_pb2.RateLimitDescriptor, match: Match | None, replaced: Container[str], names: _Names, policy: str
) -> Descriptor | Chosen:
    """What one descriptor names, and its limit where that does not follow from the kinds that are named.

    Args:
        descriptor: Any.
        match: What a domain's file has for it; None: the domain has none.
        replaced: Names of limits that do not apply to this request.
        names: Gets what is named.
        policy: Name of the policy for the domain.
    """
    read = [names.add(entry.key, entry.value) for entry in descriptor.entries]
    limited = (*names.policies.subjects, *names.policies.attributes)
    subjects = tuple((kind, names.number(kind, value)) for kind, value in read if kind in limited)
    told = _read_override(descriptor.limit) if descriptor.HasField("limit") else None
    if told is not None:
        named = tuple(names.name(kind, value) for kind, value in read)
        return Chosen(named, make_limit(policy, tuple(kind for kind, _ in named), told), tuple(slot for _, slot in named))
    if match is None:
        return subjects
    node = match.node
    if node is None or node.limit is None or node.name in replaced:
        return Chosen(subjects, None, is_unlimited=node is not None and node.is_unlimited, is_by_value=not match.is_for_any)
    named = tuple(names.name(*read[place]) for place in node.open_entries)
    return Chosen(
        tuple(dict.fromkeys((*subjects, *named))),
        node.limit,
        tuple(slot for _, slot in named),
        is_by_value=not match.is_for_any,
    )


def _read_override(limit: descriptor_pb2.RateLimitDescriptor.RateLimitOverride) -> Told | None:
    """The terms that a request brings; None where it names no unit of time: the configured ones apply."""
    unit = _UNITS.get(limit.unit)
    return None if unit is None else Told(limit.requests_per_unit, unit, limit.unit_multiplier.value or 1)


def _read_hits(descriptor: descriptor_pb2.RateLimitDescriptor, default: int) -> int:
    """What one descriptor asks for: its own hits, where 0 is a look, else the request's."""
    hits = min(descriptor.hits_addend.value if descriptor.HasField("hits_addend") else default, MOST_COST)
    return -hits if descriptor.is_negative_hits else hits


def _price(plan: Plan, hits: Sequence[int]) -> Plan:
    costs = [-MOST_COST] * len(plan.limits)
    for positions, asked in zip(plan.template.positions, hits, strict=True):
        for position in positions:
            costs[position] = max(costs[position], asked)
    return msgspec.structs.replace(plan, costs=tuple(costs))


def _plan_refusal(check: Check, descriptors: int, planner: Planner) -> Plan:
    """The plan of a request that names more than one call may ask for: nothing passes its limit."""
    limit = make_limit(planner.policies.match(check.action).name, (), Told(0, "SECOND"), "too_many_entries")
    return build_plan(check, compile_template(planner.policies, check.action, (Chosen((), limit),) * descriptors), ())


@lru_cache(maxsize=4096)
def make_limit(policy: str, per: tuple[str, ...], told: Told, name: str = "") -> Limit:
    """The limit of terms that a request brings: one object for all who bring them, for limits are told apart by identity.

    Its name has its terms, so its buckets are its own.
    """
    period_s = min(UNITS_S[told.unit.lower()] * told.unit_multiplier, _LARGEST_PERIOD_S)
    name = name or f"override-{told.requests_per_unit}-{told.unit_multiplier}{told.unit.lower()}"
    return Limit(policy, name, per, fit_terms(told.requests_per_unit, period_s), is_shadow=False, told=told)


def _settle(descriptor: Descriptor | Chosen, names: _Names) -> Descriptor | Chosen:
    if isinstance(descriptor, Chosen):
        named = _settle_names(descriptor.named, names)
        return descriptor._replace(named=named, slots=tuple(names.settle(slot) for slot in descriptor.slots))
    return _settle_names(descriptor, names)


def _settle_names(named: Iterable[tuple[str, int]], names: _Names) -> Descriptor:
    return tuple((kind, names.settle(slot)) for kind, slot in named)


def _bound_text(value: str) -> str:
    encoded = value.encode()
    return value if len(encoded) <= LARGEST_TEXT_BYTES else f"sha256:{hashlib.sha256(encoded).hexdigest()}"
