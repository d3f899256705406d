"""What policies.yaml declares, as far as others than the enforcer go by it. Pure.

Tolerant: the enforcer checks the document (``python -m enforcer check-config``); here the keys that rules refer to are read,
and all others pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class DeclaredLimit(_Tolerant):
    """One limit."""

    name: str
    per: tuple[str, ...]
    mode: Literal["enforce", "shadow", "off"] = "enforce"
    enforce_percent: int = 100

    @property
    def refuses(self) -> bool:
        """Whether it refuses anybody; in shadow mode it does not."""
        return self.mode == "enforce" and self.enforce_percent > 0


class DeclaredMatch(_Tolerant):
    """Which checks a policy is for."""

    action: str
    """An action, or a glob."""


class DeclaredPolicy(_Tolerant):
    """One policy."""

    name: str
    match: DeclaredMatch
    also: bool = False
    limits: tuple[DeclaredLimit, ...]
    identity: Literal["claimed", "authenticated"] = "claimed"


class DeclaredPolicies(_Tolerant):
    """The whole of policies.yaml."""

    mode: Literal["enforce", "shadow"] = "enforce"
    subjects: tuple[str, ...]
    foldable: tuple[str, ...] = ()
    policies: tuple[DeclaredPolicy, ...]

    def list_for(self, glob: str) -> Iterator[DeclaredPolicy]:
        """Give the policies that decide some action of the glob: those that apply on top of others, and for each action one.

        Args:
            glob: An action, or a glob.
        """
        yield from (policy for policy in self.policies if policy.also and may_meet(policy.match.action, glob))
        others = [policy for policy in self.policies if not policy.also and may_meet(policy.match.action, glob)]
        if "*" in glob:
            yield from others
        else:  # exact, then glob in the order of the document, then the catch-all: as the enforcer matches
            yield from sorted(others, key=lambda policy: (policy.match.action != glob, policy.match.action == "*"))[:1]


def may_meet(one: str, other: str) -> bool:
    """Whether two globs have a text in common; ``*`` stands for any run of characters."""
    reached = {0}
    # Positions in `other` that can be stood at after the part of `one` that was read; a star lets its reader stay or go on.
    for character in one:
        reached = _pass_stars(reached, other)
        if character == "*":
            reached = set(range(min(reached, default=len(other) + 1), len(other) + 1))
        else:
            reached = {
                place if other[place] == "*" else place + 1
                for place in reached
                if place < len(other) and other[place] in {"*", character}
            }
    return len(other) in _pass_stars(reached, other)


def _pass_stars(reached: set[int], glob: str) -> set[int]:
    passed = set(reached)
    for place in reached:
        while place < len(glob) and glob[place] == "*":
            place += 1  # noqa: PLW2901 - walks on from each
            passed.add(place)
    return passed
