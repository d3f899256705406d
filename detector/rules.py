"""What counts as an offence, and what follows from it: the rules document. Pure; :mod:`config.document` reads it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from detector.durations import format_duration, parse_duration_ms
from topics.abuse import covers

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"

_NAME = r"[a-z][a-z0-9_]{0,63}"
_GLOB = r"[A-Za-z0-9_.:/@+*-]{1,128}"
_IS_NAME = re.compile(_NAME).fullmatch
_IS_GLOB = re.compile(_GLOB).fullmatch


_ALL_BITS, _SUBJECT_BITS = 128, 64
"""Of an IPv6 address, and of what one customer holds."""

MOST_DISTINCT = 40
"""Distinct actions or users that one window tells apart."""

DESCRIBED = ("subject", "count", "counts", "threshold", "window", "actions", "rule")
"""What a description may name in braces."""


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


def _parse_share(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return round(value * 1000)
    raise ValueError(f"{value!r} is not a share; allowed: a number from 0 to 1, like 0.5")


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"value {text!r} is no address and no network; allowed: 203.0.113.7, 203.0.113.0/24, 2001:db8::/48"
        ) from error
    if isinstance(network, IPv4Network):
        return network
    if network.network_address.ipv4_mapped is not None and network.prefixlen == _ALL_BITS:
        return IPv4Network(network.network_address.ipv4_mapped)
    if network.prefixlen == _ALL_BITS:
        return network.supernet(new_prefix=_SUBJECT_BITS)
    if network.prefixlen > _SUBJECT_BITS:
        raise ValueError(f"value {text!r} is narrower than what IPv6 is limited by; allowed: a /64 or wider, or one address")
    return network


def _bound_duration(lowest_ms: int, highest_ms: int) -> AfterValidator:
    def check(duration_ms: int) -> int:
        if not lowest_ms <= duration_ms <= highest_ms:
            allowed = f"{format_duration(lowest_ms)} to {format_duration(highest_ms)}"
            raise ValueError(f"{format_duration(duration_ms)} is out of bounds; allowed: {allowed}")
        return duration_ms

    return AfterValidator(check)


_GLOB_SCHEMA = {"type": "string", "pattern": f"^{_GLOB}$"}
_GLOBS_SCHEMA = {"anyOf": [_GLOB_SCHEMA, {"type": "array", "items": _GLOB_SCHEMA, "minItems": 1, "maxItems": 32}]}

Name = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": f"^{_NAME}$"})]
Glob = Annotated[str, AfterValidator(_check_glob)]
Globs = Annotated[
    tuple[Glob, ...],
    BeforeValidator(_wrap),
    Field(min_length=1, max_length=32),
    WithJsonSchema(_GLOBS_SCHEMA, mode="validation"),
]
DurationMs = Annotated[
    int,
    BeforeValidator(parse_duration_ms),
    PlainSerializer(format_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,9}(ms|s|m|h|d)$"}, mode="validation"),
]
Share = Annotated[
    int,
    BeforeValidator(_parse_share),
    PlainSerializer(lambda share: share / 1000),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}, mode="validation"),
]
"""Per mille."""
FactorPerMille = Annotated[
    int,
    BeforeValidator(_parse_factor),
    PlainSerializer(lambda factor: factor / 1000),
    WithJsonSchema({"type": "number", "minimum": 0.001, "maximum": 0.999}, mode="validation"),
]


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
    jitter: Share = 0
    """By up to this share a ban ends sooner, so that not all who were banned together come back together. Kept per mille."""

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
    attributes: Annotated[dict[Name, Globs], Field(max_length=8)] = {}
    """Foldable attributes that all refusals of a fold have to share, and what they have to be."""


class Harder(_Document):
    """A higher threshold of the same rule, which a first offence answers with a higher rung."""

    threshold: Annotated[int, Field(ge=1, le=1_000_000)]
    start: Name


class Rule(_Document):
    """When refusals of one subject are an offence."""

    name: Name
    description: Annotated[str, Field(max_length=256)] = "{count} {counts} of {actions} by {subject} within {window}"
    """For people: what a verdict says, with the actual values in place of names in braces."""
    severity: Literal["low", "medium", "high", "critical"] = "medium"
    """For people and their alerts; decides nothing."""
    counts: Literal["denials", "actions", "users"] = "denials"
    """What is counted: refusals, or distinct actions or users behind them."""
    by: Name
    """Kind of the subject: ``user``, ``ip`` or another that the policies declare."""
    match: Match
    threshold: Annotated[int, Field(ge=1, le=1_000_000)]
    """So many within the window are an offence."""
    window: Annotated[DurationMs, _bound_duration(1_000, 86_400_000)]
    start: Name
    """Name of the rung that a first offence leads to."""
    harder: Annotated[tuple[Harder, ...], Field(max_length=4)] = ()
    """Further thresholds, each counted by itself, ascending."""
    most_admitted: Share | None = None
    """Gate: no offence while a greater share than this of the subject's checks passes. Written as 0.5, kept per mille."""
    cool_down: Annotated[DurationMs, _bound_duration(1_000, 7 * 86_400_000)] | None = None
    """For so long after an offence nothing is counted."""
    ladder: Name | None = None
    """Name of one of ``ladders``; without it, ``ladder``."""
    scope: Globs | None = None
    """Actions that a ban refuses; without it, those that the rule matches."""
    mode: Literal["enforce", "shadow"] = "enforce"
    percent: Annotated[int, Field(ge=0, le=100, strict=True)] = 100
    """Of the subjects, chosen by a stable hash, for whom the rule is enforced; for the others it is in shadow mode."""

    @field_validator("description")
    @classmethod
    def _check_description(cls, text: str) -> str:
        try:
            text.format(**dict.fromkeys(DESCRIBED, "x"))
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            names = ", ".join(f"{{{name}}}" for name in DESCRIBED)
            raise ValueError(f"{text!r} cannot be filled in; allowed are text and {names}") from error
        return text

    @model_validator(mode="after")
    def _check_thresholds(self) -> Self:
        thresholds = [self.threshold, *(harder.threshold for harder in self.harder)]
        if any(one >= next_one for one, next_one in pairwise(thresholds)):
            raise ValueError(f"thresholds have to ascend; these are {', '.join(map(str, thresholds))}")
        if self.counts != "denials" and thresholds[-1] > MOST_DISTINCT:
            raise ValueError(f"threshold {thresholds[-1]} is too high for distinct {self.counts}; at most {MOST_DISTINCT}")
        if self.counts == "actions" and thresholds[-1] > len(self.match.action) and "*" not in "".join(self.match.action):
            raise ValueError(f"threshold {thresholds[-1]} is never reached: match names {len(self.match.action)} actions")
        if self.counts == "users" and self.by == "user":
            raise ValueError("counts: users is for other kinds than user: a user is one")
        return self

    @property
    def window_ms(self) -> int:
        """Within how long the denials have to fall."""
        return self.window

    @property
    def ban_scope(self) -> tuple[str, ...]:
        """Globs of the actions that a ban of this rule refuses."""
        return self.scope or self.match.action


class Exemption(_Document):
    """A subject that no rule punishes."""

    kind: Name
    value: Annotated[str, Field(min_length=1, max_length=1024)]
    """As the check has it; addresses as one address, or a network: 203.0.113.0/24."""
    reason: Annotated[str, Field(min_length=1, max_length=512)]
    actor: Annotated[str, Field(min_length=1, max_length=128)]
    """Who decided it."""
    until: AwareDatetime | None = None
    """End; without it, for good."""

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.kind == "ip":
            _parse_network(self.value)
        return self

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """Of an ``ip``: the addresses, IPv6 by /64 at the narrowest, as they are limited."""
        return _parse_network(self.value)


class Throttle(_Document):
    """How the limits of actions follow their backend's health; the first entry that names an action counts."""

    action: Globs
    highest_latency: Annotated[DurationMs, _bound_duration(1, 600_000)]
    """Of nine requests in ten, above which there is overload however usual it has become: what the action promises."""
    lowest_latency: Annotated[DurationMs, _bound_duration(1, 600_000)] = 50
    """Below it there is no overload, however fast the backend usually is."""
    most_errors: Annotated[Share, Field(ge=1)] = 100
    """Share of failed requests above which there is overload. Written as 0.1, kept per mille."""
    floor: FactorPerMille = 20
    """The lowest factor; where it does not suffice the action opens like a circuit breaker. Written as 0.02, kept per mille."""

    @model_validator(mode="after")
    def _check_latencies(self) -> Self:
        if self.lowest_latency > self.highest_latency:
            lowest, highest = format_duration(self.lowest_latency), format_duration(self.highest_latency)
            raise ValueError(f"lowest_latency {lowest} is above highest_latency {highest}; at most that is allowed")
        return self


class Rules(_Document):
    """The whole document."""

    version: Literal[1]
    ladder: Ladder
    ladders: Annotated[dict[Name, Ladder], Field(max_length=16)] = {}
    """For rules whose offences are to lead elsewhere."""
    allowlist: Annotated[tuple[Exemption, ...], Field(max_length=10_000)] = ()
    """Whom no rule punishes. An entry ends the bans that rules have led to."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=256)]
    throttle: Annotated[tuple[Throttle, ...], Field(max_length=256)] = ()
    """Which actions are throttled when their backend is overloaded; others never are."""

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        names = [rule.name for rule in self.rules]
        for index, rule in enumerate(self.rules):
            if rule.name in names[:index]:
                raise ValueError(f"rules[{index}]: {rule.name!r} is the name of another rule; allowed is one of its own")
            if rule.ladder is not None and rule.ladder not in self.ladders:
                allowed = ", ".join(self.ladders) or "none, for there are no ladders"
                raise ValueError(f"rules[{index}]: {rule.ladder!r} is no ladder; allowed: {allowed}")
            rungs = [rung.name for rung in self.find_ladder(rule).rungs]
            for start in (rule.start, *(harder.start for harder in rule.harder)):
                if start not in rungs:
                    raise ValueError(f"rules[{index}]: start {start!r} is no rung; allowed: {', '.join(rungs)}")
        return self

    @cached_property
    def digest(self) -> str:
        """Version of what the document means: comments and layout do not change it. 12 hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def find(self, name: str) -> Rule:
        """Give the rule of that name; there has to be one."""
        return next(rule for rule in self.rules if rule.name == name)

    def find_ladder(self, rule: Rule) -> Ladder:
        """Give the ladder that a rule's offences lead up."""
        return self.ladder if rule.ladder is None else self.ladders[rule.ladder]

    def start_rung(self, rule: Rule, start: str) -> int:
        """Number of a rung of the rule's ladder, from 1."""
        return 1 + [rung.name for rung in self.find_ladder(rule).rungs].index(start)

    def find_rung(self, rule: Rule, name: str) -> Rung:
        """Give a rung of the rule's ladder; there has to be one of that name."""
        return self.find_ladder(rule).rungs[self.start_rung(rule, name) - 1]

    def find_throttle(self, action: str) -> Throttle | None:
        """Give the entry that counts for an action; None where it is never throttled."""
        return next((entry for entry in self.throttle if matches_glob(entry.action, action)), None)

    @property
    def longest_penalty_ms(self) -> int:
        """The longest duration of all rungs of all ladders."""
        return max(ladder.longest_ms for ladder in (self.ladder, *self.ladders.values()))


@lru_cache(maxsize=1024)
def _compile(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(".*".join(map(re.escape, glob.split("*"))) for glob in globs), re.DOTALL)


def matches_glob(globs: tuple[str, ...], text: str) -> bool:
    """Whether one of the globs matches the whole text; ``*`` stands for any run of characters."""
    return _compile(globs).fullmatch(text) is not None


def find_risks(rules: Rules) -> tuple[str, ...]:
    """Say what is valid but will not do what it seems to, one line each."""
    return tuple(
        f"rule {rule.name}: threshold {harder.threshold} is hardly ever reached: the ban by threshold {threshold} outlasts the "
        "window, and what a ban refuses is not counted"
        for rule in rules.rules
        for threshold, start, harder in _list_steps(rule)
        if rules.find_rung(rule, start).penalty == "ban"
        and rules.find_rung(rule, start).duration_ms >= rule.window_ms
        and covers(rule.ban_scope, rule.match.action)
    )


def may_lock_out(rules: Rules, rule: Rule) -> bool:
    """Whether the rule can ban users: then a forger of user ids could lock others out."""
    rungs = rules.find_ladder(rule).rungs[rules.start_rung(rule, rule.start) - 1 :]
    return rule.by == "user" and rule.mode == "enforce" and any(rung.penalty == "ban" for rung in rungs)


def write_schema() -> dict[str, object]:
    """JSON Schema of rules.yaml, for editors. What spans several keys is left to ``check-rules``."""
    return {"$schema": SCHEMA_ID, **Rules.model_json_schema()}


def _list_steps(rule: Rule) -> Iterator[tuple[int, str, Harder]]:
    """Each further threshold, after the threshold and start before it."""
    threshold, start = rule.threshold, rule.start
    for harder in rule.harder:
        yield threshold, start, harder
        threshold, start = harder.threshold, harder.start
