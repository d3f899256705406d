"""What the detector has to know of the policies: which limits there are, whom they are about, what is declared. Pure.

The enforcer alone judges whether the policies document is valid; this reads the few keys that rules refer to and lets all
others be.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Outline(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class LimitOutline(_Outline):
    """One limit."""

    name: str
    per: tuple[str, ...] = ()
    """Whose bucket it is: subjects, attributes, ``action``; empty for everybody's."""
    mode: str = "enforce"


class MatchOutline(_Outline):
    """What a policy is for."""

    action: str


class PolicyOutline(_Outline):
    """One policy."""

    name: str
    match: MatchOutline
    limits: tuple[LimitOutline, ...] = ()
    identity: Literal["claimed", "authenticated"] = "claimed"
    """Whether the user id is a mere claim of the caller."""


class PoliciesOutline(_Outline):
    """The document, as far as rules refer to it. Read it with :func:`config.document.read_document`."""

    subjects: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    foldable: tuple[str, ...] = ()
    policies: tuple[PolicyOutline, ...]

    @cached_property
    def blames(self) -> dict[str, tuple[str, ...]]:
        """Kinds of subject that a refusal counts against, by the refusing limit's ``policy:limit``."""
        return {
            f"{policy.name}:{limit.name}": tuple(kind for kind in self.subjects if kind in limit.per)
            for policy in self.policies
            for limit in policy.limits
        }
