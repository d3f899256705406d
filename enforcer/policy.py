"""Policies: the document that operators write, and what the decision path reads of it. Pure.

The document is checked whole; what is compiled from it holds only what a decision needs, with each limit's terms in the
script's own units.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from config.document import Loaded, parse_duration_us
from enforcer.bucket import Terms

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
WithoutRedis = Literal["allow", "deny", "local"]

_REFILL = re.compile(r"(\d{1,12})/(\d{1,9}(?:us|ms|s|m|h|d))")
_ACTION_GLOB = re.compile(r"[!-~]{1,128}")
_LIMITS_PER_POLICY = 16
_STARS_PER_GLOB = 3


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class LimitDocument(_Document):
    """One bucket's terms."""

    name: Name
    per: tuple[Name, ...]
    """Whose bucket: subject kinds, and `action` where a glob shall have a bucket for each action. Empty: one for all."""
    capacity: Annotated[int, Field(ge=1, le=2**53 - 1, strict=True)]
    """Most tokens: the burst."""
    refill: str
    """Tokens per time: `5/1m`."""
    mode: Literal["enforce", "shadow", "off"] = "enforce"

    @field_validator("refill")
    @classmethod
    def _parse(cls, value: str) -> str:
        found = _REFILL.fullmatch(value)
        if found is None or int(found[1]) == 0:
            raise ValueError(f"{value!r} is not a refill; write tokens/time, as in 5/1m")
        parse_duration_us(found[2])
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.compile_terms()
        return self

    def compile_terms(self) -> Terms:
        """Turn the terms into the script's units."""
        tokens, period = self.refill.split("/")
        return Terms.of(self.capacity, int(tokens), parse_duration_us(period))


class MatchDocument(_Document):
    """Which checks a policy is for."""

    action: str
    """An action, or a glob: `*` stands for any run of characters."""

    @field_validator("action")
    @classmethod
    def _parse(cls, value: str) -> str:
        if not _ACTION_GLOB.fullmatch(value):
            raise ValueError(f"{value!r} is not an action or glob: 1 to 128 printable ASCII characters without spaces")
        if value.count("*") > _STARS_PER_GLOB:
            raise ValueError(f"{value!r} has more than {_STARS_PER_GLOB} stars")
        return value


class PolicyDocument(_Document):
    """The limits for matching checks."""

    name: Name
    match: MatchDocument
    limits: Annotated[tuple[LimitDocument, ...], Field(max_length=_LIMITS_PER_POLICY)]
    """Widest first. A refused check takes no tokens from any of them. None: always allowed."""
    without_redis: WithoutRedis = "local"
    """What happens while Redis is away: `allow`, `deny`, or `local`: this process's share of the limits, in memory."""


class PoliciesDocument(_Document):
    """The whole of policies.yaml."""

    version: Literal[1]
    subjects: Annotated[tuple[Name, ...], Field(min_length=1, max_length=8)]
    """Kinds that can be limited, folded and banned: `user` is the check's user_id, the others are attributes."""
    foldable: Annotated[tuple[Name, ...], Field(max_length=8)] = ()
    """Attributes that the detector's rules may match."""
    expected_enforcers: Annotated[int, Field(ge=1, le=10_000)] = 2
    """By how many processes a limit is shared while Redis is away."""
    policies: Annotated[tuple[PolicyDocument, ...], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(set(self.subjects)) != len(self.subjects):
            raise ValueError("subjects: a kind stands twice")
        if "action" in self.subjects:
            raise ValueError("subjects: `action` is no subject; a limit may name it in `per`")
        names: set[str] = set()
        actions: set[str] = set()
        for position, policy in enumerate(self.policies):
            where = f"policies[{position}]: {policy.name}"
            if policy.name in names:
                raise ValueError(f"{where}: the name stands twice")
            if policy.match.action in actions:
                raise ValueError(f"{where}: the action {policy.match.action!r} is matched by an earlier policy")
            names.add(policy.name)
            actions.add(policy.match.action)
            self._are_declared(policy, where)
        if "*" not in actions:
            raise ValueError('policies: the catch-all is missing: a policy with match: { action: "*" }')
        return self

    def _are_declared(self, policy: PolicyDocument, where: str) -> None:
        limits = [limit.name for limit in policy.limits]
        if len(set(limits)) != len(limits):
            raise ValueError(f"{where}: a limit's name stands twice")
        allowed = (*self.subjects, "action")
        for limit in policy.limits:
            for kind in limit.per:
                if kind not in allowed:
                    raise ValueError(f"{where}: limit {limit.name}: per: {kind!r} is not one of {', '.join(allowed)}")


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """One limit as the decision path reads it; told apart by identity, which is what makes it a cheap key."""

    policy: str
    name: str
    per: tuple[str, ...]
    terms: Terms
    is_shadow: bool

    @property
    def label(self) -> str:
        """``policy:limit``."""
        return f"{self.policy}:{self.name}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits for one match, those that are off left out."""

    name: str
    limits: tuple[Limit, ...]
    without_redis: WithoutRedis


@dataclass(frozen=True)
class Policies:
    """One document in force. Matching is exact, then glob in the order of the document, then the catch-all."""

    version: str
    subjects: tuple[str, ...]
    foldable: tuple[str, ...]
    expected_enforcers: int
    exact: dict[str, Policy]
    globs: tuple[tuple[re.Pattern[str], Policy], ...]
    catch_all: Policy

    @classmethod
    def compile(cls, loaded: Loaded[PoliciesDocument]) -> Self:
        """Compile a document that was found valid."""
        document = loaded.model
        exact: dict[str, Policy] = {}
        globs: list[tuple[re.Pattern[str], Policy]] = []
        catch_all = None
        for entry in document.policies:
            limits = tuple(
                Limit(entry.name, limit.name, limit.per, limit.compile_terms(), limit.mode == "shadow")
                for limit in entry.limits
                if limit.mode != "off"
            )
            policy = Policy(entry.name, limits, entry.without_redis)
            if entry.match.action == "*":
                catch_all = policy
            elif "*" in entry.match.action:
                pattern = ".*".join(re.escape(part) for part in entry.match.action.split("*"))
                globs.append((re.compile(pattern + r"\Z"), policy))
            else:
                exact[entry.match.action] = policy
        assert catch_all is not None  # noqa: S101 the document was found valid
        return cls(
            loaded.version, document.subjects, document.foldable, document.expected_enforcers, exact, tuple(globs), catch_all
        )

    @cached_property
    def attribute_kinds(self) -> tuple[str, ...]:
        """The declared kinds that are attributes."""
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

    def __iter__(self) -> Iterator[Policy]:
        yield from self.exact.values()
        yield from (policy for _, policy in self.globs)
        yield self.catch_all
