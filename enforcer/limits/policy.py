"""Policies as the decision path reads them: compiled from the document, with terms in the script's own units. Pure.

What differs between checks of one action (their tier, whether a limit is enforced for their subject yet) is laid out here as
forms of a limit; the planner picks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from config.document import Loaded
from enforcer.limits.bucket import UNREGISTERED, Generation, Terms
from enforcer.limits.policy_document import ENVOY_KEYS, Identity, LimitDocument, PoliciesDocument, PolicyDocument, WithoutRedis

if TYPE_CHECKING:
    from enforcer.limits.envoy_domain import Node  # it is made of limits

_ALL_PERCENT = 100
_STRICTEST_FIRST: tuple[WithoutRedis, ...] = ("deny", "local", "allow")


class Override(NamedTuple):
    """Other terms of one limit for one subject."""

    terms: Terms
    until_ms: int | None = None
    """Milliseconds since the epoch; None: no end."""


Overrides = Mapping[str, Mapping[tuple[str, str], Override]]
"""By subject (``kind=value``), then by policy and limit."""


class Told(NamedTuple):
    """How Envoy is told of a limit, where its terms are written otherwise than they are counted."""

    requests_per_unit: int
    unit: str
    """``SECOND`` to ``YEAR``."""
    unit_multiplier: int = 1
    metadata: Mapping[str, Any] | None = None
    """Told where the limit was enough."""


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """One limit as the decision path reads it; told apart by identity, which is what makes it a cheap key."""

    policy: str
    name: str
    per: tuple[str, ...]
    terms: Terms
    is_shadow: bool
    is_required: bool = False
    """A check without a subject of ``per`` is refused."""
    tier: str = ""
    """Whose terms these are; empty: the limit's own."""
    tiers: Mapping[str, Limit] = field(default_factory=dict)
    """The same limit as other tiers have it."""
    enforce_percent: int = _ALL_PERCENT
    shadow: Limit | None = None
    """The same limit in shadow mode, for those it is not enforced for; None: it is enforced for all."""
    told: Told | None = None

    @property
    def label(self) -> str:
        """``policy:limit``."""
        return f"{self.policy}:{self.name}"

    @property
    def varies(self) -> bool:
        """Whether checks have it in different forms."""
        return bool(self.tiers) or self.shadow is not None

    def under(self, generation: Generation) -> Self:
        """The same limit, in all its forms, as of a generation."""
        return replace(
            self,
            terms=self.terms.under(generation),
            tiers={tier: limit.under(generation) for tier, limit in self.tiers.items()},
            shadow=None if self.shadow is None else self.shadow.under(generation),
        )

    def with_terms(self, terms: Terms, tier: str = "") -> Limit:
        """The same limit on other terms, also in shadow mode."""
        shadow = None if self.shadow is None else replace(self.shadow, terms=terms, tier=tier)
        return replace(self, terms=terms, tier=tier, tiers={}, shadow=shadow)


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits for one match, those that are off left out."""

    name: str
    action: str
    """The action or glob that it is matched by."""
    limits: tuple[Limit, ...]
    without_redis: WithoutRedis
    priority: int = 5
    """1 to 10; 10 is throttled last."""
    identity: Identity = "claimed"

    def under(self, generation: Generation) -> Self:
        """The same policy as of a generation."""
        return replace(self, limits=tuple(limit.under(generation) for limit in self.limits))

    @property
    def matched_by(self) -> str:
        """``exact``, ``glob PATTERN`` or ``catch-all``."""
        return "catch-all" if self.action == "*" else f"glob {self.action}" if "*" in self.action else "exact"

    @classmethod
    def compile(cls, document: PolicyDocument, *, is_shadow: bool) -> Self:
        """Compile one policy of a document that was found valid; ``is_shadow``: all of the document is."""
        limits = tuple(_compile_limit(document.name, limit, is_shadow) for limit in document.limits if limit.mode != "off")
        return cls(document.name, document.match.action, limits, document.without_redis, document.priority, document.identity)


def _compile_limit(policy: str, document: LimitDocument, is_all_shadow: bool) -> Limit:
    is_shadow = is_all_shadow or document.mode == "shadow" or document.enforce_percent == 0
    is_partial = not is_shadow and document.enforce_percent < _ALL_PERCENT
    limit = Limit(policy, document.name, document.per, document.compile_terms(), is_shadow)
    if is_partial:
        limit = replace(limit, enforce_percent=document.enforce_percent, shadow=replace(limit, is_shadow=True))
    tiers = {tier: limit.with_terms(terms.compile_terms(), tier) for tier, terms in document.tiers.items()}
    return replace(limit, is_required=document.required and not is_shadow and not is_partial, tiers=tiers)


def is_enforced_for(limit: Limit, subject: str) -> bool:
    """Whether a limit that is enforced for some is enforced for this subject.

    Equal on every enforcer, and monotone: whom 10 % includes, 20 % includes too. Each limit has its own choice of subjects.

    Args:
        limit: ``enforce_percent`` is the share of subjects.
        subject: The names in ``per``, joined.
    """
    digest = hashlib.blake2b(f"{limit.label} {subject}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % _ALL_PERCENT < limit.enforce_percent


def find_strictest(policies: tuple[Policy, ...]) -> WithoutRedis:
    """What happens without Redis where several policies apply: ``deny`` before ``local`` before ``allow``."""
    return min((policy.without_redis for policy in policies), key=_STRICTEST_FIRST.index)


@dataclass(frozen=True)
class Policies:
    """One document in force. Matching is exact, then glob in the order of the document, then the catch-all."""

    version: str
    generation: Generation
    subjects: tuple[str, ...]
    attributes: tuple[str, ...]
    """Attributes that limits may be ``per`` and that are no subjects."""
    foldable: tuple[str, ...]
    tier: str
    """The attribute whose value is the tier; empty for none."""
    expected_enforcers: int
    exact: dict[str, Policy]
    globs: tuple[tuple[re.Pattern[str], Policy], ...]
    catch_all: Policy
    also: tuple[tuple[re.Pattern[str], Policy], ...]
    overrides: Overrides
    envoy_actions: Mapping[str, str] = field(default_factory=dict)
    """By Envoy's domain; of others the action is the domain."""
    envoy_keys: Mapping[str, str] = field(default_factory=lambda: ENVOY_KEYS)
    """What an entry of Envoy's descriptors names, by its key; other keys name what they say."""
    domains: Mapping[str, Node] = field(default_factory=dict)
    """Of Envoy's requests, those domains whose limits are found by values, in files of ``envoyproxy/ratelimit``."""

    @classmethod
    def compile(cls, loaded: Loaded[PoliciesDocument]) -> Self:
        """Compile a document that was found valid, before Redis has given it a generation."""
        document = loaded.model
        exact: dict[str, Policy] = {}
        globs: list[tuple[re.Pattern[str], Policy]] = []
        also: list[tuple[re.Pattern[str], Policy]] = []
        catch_all = None
        for entry in document.policies:
            policy = Policy.compile(entry, is_shadow=document.mode == "shadow")
            if entry.also:
                also.append((_compile_glob(policy.action), policy))
            elif policy.action == "*":
                catch_all = policy
            elif "*" in policy.action:
                globs.append((_compile_glob(policy.action), policy))
            else:
                exact[policy.action] = policy
        assert catch_all is not None  # noqa: S101 the document was found valid
        return cls(
            loaded.version,
            UNREGISTERED,
            document.subjects,
            document.attributes,
            document.foldable,
            document.tier.attribute if document.tier else "",
            document.expected_enforcers,
            exact,
            tuple(globs),
            catch_all,
            tuple(also),
            _compile_overrides(document),
            document.envoy.domains,
            {**ENVOY_KEYS, **document.envoy.keys},
        )

    def under(self, generation: Generation) -> Self:
        """The same document as of the generation that Redis gave it."""
        return replace(
            self,
            generation=generation,
            exact={action: policy.under(generation) for action, policy in self.exact.items()},
            globs=tuple((pattern, policy.under(generation)) for pattern, policy in self.globs),
            catch_all=self.catch_all.under(generation),
            also=tuple((pattern, policy.under(generation)) for pattern, policy in self.also),
            overrides={
                subject: {
                    place: Override(override.terms.under(generation), override.until_ms) for place, override in own.items()
                }
                for subject, own in self.overrides.items()
            },
            domains={domain: root.under(generation) for domain, root in self.domains.items()},
        )

    @cached_property
    def attribute_kinds(self) -> tuple[str, ...]:
        """The subject kinds that are attributes."""
        return tuple(kind for kind in self.subjects if kind != "user")

    def match(self, action: str) -> Policy:
        """Find the policy for one action."""
        policy = self.exact.get(action)
        if policy is not None:
            return policy
        for pattern, candidate in self.globs:
            if pattern.match(action):
                return candidate
        return self.catch_all

    def match_all(self, action: str) -> tuple[Policy, ...]:
        """Find all policies for one action, widest first: those that apply on top, then the one that matched."""
        return (*[policy for pattern, policy in self.also if pattern.match(action)], self.match(action))

    def __iter__(self) -> Iterator[Policy]:
        yield from (policy for _, policy in self.also)
        yield from self.exact.values()
        yield from (policy for _, policy in self.globs)
        yield self.catch_all


def _compile_glob(glob: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in glob.split("*")) + r"\Z")


def _compile_overrides(document: PoliciesDocument) -> Overrides:
    overrides: dict[str, dict[tuple[str, str], Override]] = {}
    for entry in document.overrides:
        until_ms = None if entry.until is None else int(entry.until.timestamp() * 1000)
        terms = Override(entry.compile_terms(), until_ms)
        overrides.setdefault(entry.subject.name, {})[entry.policy, entry.limit] = terms
    return overrides
