"""Limits by the rules of ``envoyproxy/ratelimit``: a tree of descriptors that a request is walked down, entry by entry. Pure.

At each step a descriptor with exactly this key and value wins, then the first pattern of the document that matches, then the
key without a value. A limit applies where the request's last entry ends. Each descriptor of a request has one limit at most,
with a bucket for each combination of values that the path to it leaves open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import NamedTuple, Protocol
from urllib.parse import quote

from enforcer.limits.bucket import Generation, Terms, TermsOutOfRange
from enforcer.limits.check import bound_action
from enforcer.limits.envoy_document import UNITS_S, DescriptorDocument, DomainDocument
from enforcer.limits.globs import matches
from enforcer.limits.policy import Limit, Told
from enforcer.limits.policy_document import ENVOY_KEYS

_LONGEST_NAME = 128
_SAFE = "-._~@/*+"


class Entry(Protocol):
    """One key and value of a request's descriptor."""

    @property
    def key(self) -> str:
        """What is named."""

    @property
    def value(self) -> str:
        """How."""


class Match(NamedTuple):
    """Where a request's descriptor ends in the document."""

    node: Node | None
    """None: nowhere."""
    is_for_any: bool
    """Any other values end there too."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One descriptor of the document."""

    children: dict[str, Node]
    """By composite key."""
    patterns: tuple[tuple[tuple[str, ...], Node], ...] = ()
    """Children with ``*``: the texts around the stars, in the order of the document."""
    valued: frozenset[str] = frozenset()
    """Keys that some composite key of a child begins with."""
    limit: Limit | None = None
    open_entries: tuple[int, ...] = ()
    """Which entries of a request that ends here tell the limit's buckets apart, one for each kind of its ``per``."""
    is_unlimited: bool = False
    name: str = ""
    replaces: tuple[str, ...] = ()

    def under(self, generation: Generation) -> Node:
        """The same with its limits as of a generation."""
        children = {name: child.under(generation) for name, child in self.children.items()}
        return replace(
            self,
            children=children,
            patterns=tuple((parts, children["*".join(parts)]) for parts, _ in self.patterns),
            limit=None if self.limit is None else self.limit.under(generation),
        )

    def find(self, entry: Entry) -> Node | None:
        """The child for one entry."""
        composite = f"{entry.key}_{entry.value}"
        child = self.children.get(composite)
        if child is None and self.patterns:
            child = next((node for parts, node in self.patterns if matches(parts, composite)), None)
        return self.children.get(entry.key) if child is None else child

    def match(self, entries: Iterable[Entry]) -> Match:
        """The descendant for the entries of one descriptor of a request, all of them."""
        node: Node | None = self
        is_for_any = True
        for entry in entries:
            if node is None:
                return Match(None, is_for_any)
            is_for_any = is_for_any and node.is_for_any(entry.key)
            node = node.find(entry)
        return Match(None if node is self else node, is_for_any)

    def is_for_any(self, key: str) -> bool:
        """Whether entries of this key find the same child whatever their value is."""
        if key in self.valued:
            return False
        head = f"{key}_"
        return not any(parts[0].startswith(head) or head.startswith(parts[0]) for parts, _ in self.patterns)


def compile_domain(documents: Sequence[DomainDocument]) -> Node:
    """Compile what all files say of one domain; no composite key stands in two of them."""
    domain = bound_action(documents[0].domain)
    return _compile_children(domain, (), [child for document in documents for child in document.descriptors])


def list_limits(node: Node) -> Iterator[Limit]:
    """All limits at and below a node."""
    if node.limit is not None:
        yield node.limit
    for child in node.children.values():
        yield from list_limits(child)


class _Step(NamedTuple):
    descriptor: DescriptorDocument

    @property
    def kind(self) -> str:
        return name_kind(self.descriptor.key)

    @property
    def is_open(self) -> bool:
        """Whether requests with different values come here, for buckets of their own, or with one that names a subject."""
        one = self.descriptor
        has_pattern = "*" in one.composite
        return not one.share_threshold and (has_pattern or not one.value or one.key in _SUBJECTS)


_SUBJECTS = {"user", "ip", *ENVOY_KEYS}


def _compile_children(domain: str, path: tuple[_Step, ...], descriptors: Iterable[DescriptorDocument]) -> Node:
    children, patterns = {}, []
    for descriptor in descriptors:
        node = children[descriptor.composite] = _compile(domain, (*path, _Step(descriptor)))
        if "*" in descriptor.composite:
            patterns.append((tuple(descriptor.composite.split("*")), node))
    valued = {name[:place] for name in children for place, letter in enumerate(name) if letter == "_"}
    return Node(children, tuple(patterns), frozenset(valued))


def _compile(domain: str, path: tuple[_Step, ...]) -> Node:
    document = path[-1].descriptor
    below = _compile_children(domain, path, document.descriptors)
    terms = document.rate_limit
    if terms is None:
        return below
    name, replaces = terms.name, tuple(replaced.name for replaced in terms.replaces)
    if terms.unlimited:
        return replace(below, is_unlimited=True, name=name, replaces=replaces)
    open_entries = tuple(i for i, step in enumerate(path) if step.is_open)
    limit = Limit(
        domain,
        _shorten(".".join(step.descriptor.composite for step in path)),
        tuple(path[i].kind for i in open_entries),
        fit_terms(terms.requests_per_unit, UNITS_S[terms.unit.lower()]),
        is_shadow=document.shadow_mode,
        told=Told(terms.requests_per_unit, terms.unit.upper(), metadata=document.metadata or None),
    )
    return replace(below, limit=limit, open_entries=open_entries, name=name, replaces=replaces)


def fit_terms(requests: int, period_s: int) -> Terms:
    """A bucket for so many requests in each period: it holds them all, and refills evenly.

    The fraction is reduced first, so that whatever people write fits. What still does not (tokens by the billion in a period of
    months, with no common divisor) gets the largest bucket that can be counted exactly, at the same rate.
    """
    if requests == 0:
        return Terms.of(0, 1, period_s * 1_000_000)
    for tick_us in (1, 1000):
        ticks = period_s * 1_000_000 // tick_us
        common = gcd(requests, ticks)
        refill, period_us = requests // common, ticks // common * tick_us
        try:
            return Terms.of(requests, refill, period_us)
        except TermsOutOfRange as error:
            largest = error.largest
    return Terms.of(largest, refill, period_us)


def name_kind(key: str) -> str:
    """The kind of subject or attribute that a key names; ``action`` is taken: limits that name it mean the domain."""
    return ENVOY_KEYS.get(key) or ("%61ction" if key == "action" else _shorten(key))


def _shorten(text: str) -> str:
    """Printable ASCII of bounded length that no other text has."""
    quoted = quote(text, safe=_SAFE, errors="surrogatepass")
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return f"{quoted[:60]}~{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"
