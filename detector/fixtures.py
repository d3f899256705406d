"""Fixtures of rules: what happened, in a compact notation, and which verdicts have to come of it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from detector.durations import parse_duration_ms
from lua.keys import is_subject
from topics.events import VerdictResult
from topics.wire import Fold

START_MS = 1_800_000_000_000
"""The instant that a fixture's times are counted from."""


def _parse_offset_ms(value: object) -> int:
    return 0 if value == "0s" else parse_duration_ms(value)


OffsetMs = Annotated[int, BeforeValidator(_parse_offset_ms)]
"""Since the fixture's start: ``0s``, ``500ms``, ``59s``."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Terms(_Document):
    """Who is refused, and by which limit: what the events of a file have in common."""

    subject: str
    """``kind=value``, as in topic ``denials``."""
    action: str
    policy: str
    limit: str

    @field_validator("subject")
    @classmethod
    def _check_subject(cls, text: str) -> str:
        if not is_subject(text):
            raise ValueError(f"{text!r} is no subject; write kind=value, escaped as in topic denials, as in user=alice")
        return text


class Event(_Document):
    """Refusals of one subject in one instant, as an enforcer folds them; what it leaves out is that of ``refusals``."""

    at: OffsetMs
    denied: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """How many checks the limit refused."""
    admitted: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Checks that passed since the event before."""
    users: Annotated[int, Field(ge=0, le=64)] = 0
    """Distinct users behind the refusals, others with each event; for other kinds than user."""
    same_users: bool = False
    """The users are those of every other event with this mark."""
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    """So many such events, ``every`` so long."""
    every: OffsetMs = 1_000
    subject: str | None = None
    action: str | None = None
    policy: str | None = None
    limit: str | None = None
    attributes: dict[str, str] = {}


class Expected(_Document):
    """One verdict."""

    at: OffsetMs
    rung: str | None = None
    """Name of the rung; none where nothing changes."""
    result: VerdictResult = "applied"
    subject: str | None = None
    rule: str | None = None


class Fixture(_Document):
    """One story."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    events: Annotated[tuple[Event, ...], Field(min_length=1, max_length=1_000)]
    verdicts: Annotated[tuple[Expected, ...], Field(max_length=100)]
    """All that have to come, of any rule, in order. None: a negative fixture."""


class Fixtures(_Document):
    """One file: the fixtures of one rule."""

    version: Literal[1]
    rule: str
    refusals: Terms
    fixtures: Annotated[tuple[Fixture, ...], Field(min_length=1, max_length=200)]

    def list_folds(self, fixture: Fixture) -> list[Fold]:
        """Write out the events as an enforcer would, in the order of time."""
        folds = [fold for number, event in enumerate(fixture.events) for fold in _repeat(event, self.refusals, number)]
        return sorted(folds, key=lambda fold: fold.last_ms)


def _repeat(event: Event, terms: Terms, number: int) -> Iterator[Fold]:
    for turn in range(event.times):
        at_ms = START_MS + event.at + turn * event.every
        crowd = "same" if event.same_users else f"{number}/{turn}"
        yield Fold(
            subject=event.subject or terms.subject,
            action=event.action or terms.action,
            policy=event.policy or terms.policy,
            limit=event.limit or terms.limit,
            count=event.denied,
            first_ms=at_ms,
            last_ms=at_ms,
            admitted=event.admitted,
            users=tuple(sorted(_hash_user(f"{crowd}/{user}") for user in range(event.users))),
            attributes=event.attributes,
        )


def _hash_user(user: str) -> int:
    """As the enforcer hashes it: 48 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=6).digest())
