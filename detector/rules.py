"""What counts as an offence, and what follows from it: the rules document. Pure; :mod:`config.document` reads it."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property, lru_cache
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from detector.durations import format_duration, parse_duration_ms
from topics.events import Fold

_IS_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}").fullmatch
_IS_GLOB = re.compile(r"[A-Za-z0-9_.:/@+*-]{1,128}").fullmatch


def _check_name(text: str) -> str:
    if not _IS_NAME(text):
        raise ValueError(f"{text!r} is not a name; allowed: a-z first, then a-z, 0-9 and _, at most 64 characters")
    return text


def _check_glob(text: str) -> str:
    # Globs are written into JSON by a script that escapes nothing, so the alphabet is what keeps that JSON whole.
    if not _IS_GLOB(text):
        raise ValueError(
            f"{text!r} is not a glob; allowed: letters, digits, any of _ . : / @ + - and *, at most 128 characters"
        )
    return text


def _wrap(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _parse_factor(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.001 <= value <= 0.999:
        return round(value * 1000)
    raise ValueError(f"{value!r} is not a factor; allowed: a number from 0.001 to 0.999, like 0.5")


def _bound_duration(lowest_ms: int, highest_ms: int) -> AfterValidator:
    def check(duration_ms: int) -> int:
        if not lowest_ms <= duration_ms <= highest_ms:
            allowed = f"{format_duration(lowest_ms)} to {format_duration(highest_ms)}"
            raise ValueError(f"{format_duration(duration_ms)} is out of bounds; allowed: {allowed}")
        return duration_ms

    return AfterValidator(check)


Name = Annotated[str, AfterValidator(_check_name)]
Glob = Annotated[str, AfterValidator(_check_glob)]
Globs = Annotated[tuple[Glob, ...], BeforeValidator(_wrap), Field(min_length=1, max_length=32)]
DurationMs = Annotated[int, BeforeValidator(parse_duration_ms), PlainSerializer(format_duration)]
FactorPerMille = Annotated[int, BeforeValidator(_parse_factor), PlainSerializer(lambda factor: factor / 1000)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Rung(_Document):
    """One step of the ladder."""

    name: Name
    penalty: Literal["warn", "tighten", "ban"]
    duration: Annotated[DurationMs, _bound_duration(100, 30 * 86_400_000)]
    """From the time of the offence."""
    factor: FactorPerMille | None = None
    """Of ``tighten``: what is left of the subject's limits. Written as 0.5, kept per mille."""

    @model_validator(mode="after")
    def _check_factor(self) -> Self:
        if (self.penalty == "tighten") != (self.factor is not None):
            raise ValueError("factor belongs to the penalty tighten, and to it alone")
        return self

    @property
    def duration_ms(self) -> int:
        """How long the penalty lasts."""
        return self.duration


class Ladder(_Document):
    """Ever harder penalties, mildest first, and how soon offences are forgotten."""

    half_life: Annotated[DurationMs, _bound_duration(1_000, 365 * 86_400_000)]
    """After this time without offence, counted from the end of the last ban, half the strike score is left."""
    rungs: Annotated[tuple[Rung, ...], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [rung.name for rung in self.rungs]
        if len(set(names)) != len(names):
            raise ValueError("two rungs have the same name; allowed are names of their own")
        return self

    @property
    def half_life_ms(self) -> int:
        """After how long half the score is left."""
        return self.half_life

    @property
    def longest_ms(self) -> int:
        """The longest duration of all rungs."""
        return max(rung.duration_ms for rung in self.rungs)


class Match(_Document):
    """Which folds a rule counts."""

    action: Globs
    policy: Globs = ("*",)
    limit: Globs = ("*",)


class Rule(_Document):
    """When refusals of one subject are an offence."""

    name: Name
    counts: Literal["denials"] = "denials"
    """What is counted; one kind so far."""
    by: Name
    """Kind of the subject: ``user``, ``ip`` or another that the policies declare."""
    match: Match
    threshold: Annotated[int, Field(ge=1, le=1_000_000)]
    """So many denials within the window are an offence."""
    window: Annotated[DurationMs, _bound_duration(1_000, 86_400_000)]
    start: Name
    """Name of the rung that a first offence leads to."""
    scope: Globs | None = None
    """Actions that a ban refuses; without it, those that the rule matches."""
    mode: Literal["enforce", "shadow"] = "enforce"

    @property
    def window_ms(self) -> int:
        """Within how long the denials have to fall."""
        return self.window

    @property
    def ban_scope(self) -> tuple[str, ...]:
        """Globs of the actions that a ban of this rule refuses."""
        return self.scope or self.match.action

    def covers(self, fold: Fold) -> bool:
        """Whether the rule counts this fold."""
        return (
            fold.subject.partition("=")[0] == self.by
            and matches_glob(self.match.action, fold.action)
            and matches_glob(self.match.policy, fold.policy)
            and matches_glob(self.match.limit, fold.limit)
        )


class Rules(_Document):
    """The whole document."""

    version: Literal[1]
    ladder: Ladder
    rules: Annotated[tuple[Rule, ...], Field(max_length=256)]

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        names = [rule.name for rule in self.rules]
        rungs = [rung.name for rung in self.ladder.rungs]
        for index, rule in enumerate(self.rules):
            if rule.name in names[:index]:
                raise ValueError(f"rules[{index}]: {rule.name!r} is the name of another rule; allowed is one of its own")
            if rule.start not in rungs:
                raise ValueError(f"rules[{index}]: start {rule.start!r} is no rung; allowed: {', '.join(rungs)}")
        return self

    @cached_property
    def digest(self) -> str:
        """Version of what the document means: comments and layout do not change it. 12 hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def find(self, name: str) -> Rule:
        """Give the rule of that name; there has to be one."""
        return next(rule for rule in self.rules if rule.name == name)

    def start_rung(self, rule: Rule) -> int:
        """Number of the rule's first rung, from 1."""
        return 1 + [rung.name for rung in self.ladder.rungs].index(rule.start)


@lru_cache(maxsize=1024)
def _compile(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(".*".join(map(re.escape, glob.split("*"))) for glob in globs), re.DOTALL)


def matches_glob(globs: tuple[str, ...], text: str) -> bool:
    """Whether one of the globs matches the whole text; ``*`` stands for any run of characters."""
    return _compile(globs).fullmatch(text) is not None


def find_risks(rules: Rules) -> tuple[str, ...]:
    """Say what is valid but may harm the innocent, one line each."""
    bans = {number for number, rung in enumerate(rules.ladder.rungs, start=1) if rung.penalty == "ban"}
    return tuple(
        f"rule {rule.name}: bans users; where the user id is a mere claim of the caller, a forger could lock others out"
        for rule in rules.rules
        if rule.by == "user" and rule.mode == "enforce" and any(number >= rules.start_rung(rule) for number in bans)
    )
