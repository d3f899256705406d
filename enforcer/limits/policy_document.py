"""The document that operators write: which limits apply to which checks. Checked whole; every problem names its place. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from config.document import parse_duration_us
from enforcer.limits.bucket import Terms
from enforcer.limits.check import CALLER
from lua.keys import name_attribute

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
ENVOY_KEYS = {"user_id": "user", "remote_address": "ip"}
"""Keys of Envoy's descriptors that name a subject under another name."""
MOST_ALSO_POLICIES = 8
"""On top of the policy that matched: a check asks for the limits of all of them in one call."""

_LIMITS_PER_POLICY = 16
_STARS_PER_GLOB = 3
_ALL_PERCENT = 100

_REFILL = re.compile(r"(\d{1,12})/(\d{1,9}(?:us|ms|s|m|h|d))")
_REFILL_SCHEMA = r"^\d{1,12}/\d{1,9}(us|ms|s|m|h|d)$"
_ACTION_GLOB = re.compile(r"[!-~]{1,128}")


def _check_refill(value: str) -> str:
    found = _REFILL.fullmatch(value)
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{value!r} is not a refill; write tokens/time, as in 5/1m")
    parse_duration_us(found[2])
    return value


def _parse_instant(value: object) -> datetime:
    """YAML has made a datetime of most of them already."""
    parsed: object = value
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            parsed = None
    if not isinstance(parsed, datetime) or parsed.tzinfo is None:
        written = value.isoformat() if isinstance(value, date) else value
        raise ValueError(f"{written!r} is not an instant; write date, time and zone, as in 2027-01-31T18:00:00Z")
    return parsed


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Tier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Capacity = Annotated[int, Field(ge=1, le=2**53 - 1, strict=True)]
Refill = Annotated[str, AfterValidator(_check_refill), Field(json_schema_extra={"pattern": _REFILL_SCHEMA})]
Instant = Annotated[datetime, BeforeValidator(_parse_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Action = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
WithoutRedis = Literal["allow", "deny", "local"]
Identity = Literal["claimed", "authenticated"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TermsDocument(_Document):
    """What a bucket allows."""

    capacity: Capacity
    """Most tokens: the burst."""
    refill: Refill
    """Tokens per time: `5/1m`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.compile_terms()
        return self

    def compile_terms(self) -> Terms:
        """Turn the terms into the script's units."""
        tokens, period = self.refill.split("/")
        return Terms.of(self.capacity, int(tokens), parse_duration_us(period))


class LimitDocument(TermsDocument):
    """One limit."""

    name: Name
    per: tuple[Name, ...]
    """Whose bucket: declared subjects and attributes, and `action` where a glob shall have a bucket for each action. Empty: one
    for all."""
    mode: Literal["enforce", "shadow", "off"] = "enforce"
    """`shadow` refuses nobody and is only told, from buckets of its own."""
    enforce_percent: Annotated[int, Field(ge=0, le=_ALL_PERCENT, strict=True)] = _ALL_PERCENT
    """Share of the subjects that the limit is enforced for, chosen by a stable hash; the others have it in shadow mode."""
    required: StrictBool = False
    """Refuse a check that lacks a subject of `per`, while the limit is enforced for everybody."""
    tiers: Annotated[dict[Tier, TermsDocument], Field(max_length=32)] = {}
    """Other terms by tier. Whoever is of another tier, or of none, has the limit's own."""

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        named = [kind for kind in self.per if kind != "action"]
        if self.required and not named:
            raise ValueError("required: `per` names nobody who could be absent")
        if self.enforce_percent != _ALL_PERCENT and not named:
            raise ValueError("enforce_percent: `per` names nobody to choose by")
        return self


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
    also: StrictBool = False
    """Apply on top of the policy that matches the action, not instead of another."""
    limits: Annotated[tuple[LimitDocument, ...], Field(max_length=_LIMITS_PER_POLICY)]
    """Widest first. A refused check takes no tokens from any of them. None: always allowed."""
    without_redis: WithoutRedis = "local"
    """What happens while Redis is away: `allow`, `deny`, or `local`: this process's share of the limits, in memory."""
    priority: Annotated[int, Field(ge=1, le=10, strict=True)] = 5
    """10 is throttled last under overload."""
    identity: Identity = "claimed"
    """Whether the caller has proved the user id, or only says it. Who can claim an id can have its owner refused."""


class TierDocument(_Document):
    """Where a check says which tier it is of."""

    attribute: Name
    """The attribute whose value is the tier."""


class SubjectDocument(_Document):
    """One subject."""

    kind: Name
    value: Annotated[str, Field(min_length=1, max_length=1024)]

    @property
    def name(self) -> str:
        """``kind=value``, as in keys and events."""
        return name_attribute(self.kind, self.value)


class OverrideDocument(TermsDocument):
    """Other terms of one limit for one subject."""

    subject: SubjectDocument
    policy: Name
    limit: Name
    until: Instant | None = None
    """End of the override (RFC 3339). Absent: as long as it stands here."""
    reason: Annotated[str, Field(min_length=1, max_length=512)]
    """For whoever reads this later."""


class EnvoyDocument(_Document):
    """How the requests of Envoy's rate limit service are read."""

    domains: Annotated[dict[str, Action], Field(max_length=1000)] = {}
    """The action that the requests of a domain are; of any other domain the action has its name."""
    keys: Annotated[dict[str, Name], Field(max_length=32)] = {}
    """What an entry of a descriptor names: `user`, or a declared subject or attribute. Unless it stands here, `user_id` names
    the user, `remote_address` the ip, and any other key the attribute of that name."""


class PoliciesDocument(_Document):
    """The whole of policies.yaml."""

    version: Literal[1]
    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow` puts every limit into shadow mode: nothing is refused but the banned."""
    subjects: Annotated[tuple[Name, ...], Field(min_length=1, max_length=8)]
    """Kinds that can be limited, folded and banned: `user` is the check's user_id, the others are attributes."""
    attributes: Annotated[tuple[Name, ...], Field(max_length=8)] = ()
    """Further attributes that a limit may be `per`: never banned, never folded."""
    foldable: Annotated[tuple[Name, ...], Field(max_length=8)] = ()
    """Attributes that the detector's rules may match."""
    tier: TierDocument | None = None
    envoy: EnvoyDocument = EnvoyDocument()
    expected_enforcers: Annotated[int, Field(ge=1, le=10_000)] = 2
    """By how many processes a limit is shared while Redis is away."""
    policies: Annotated[tuple[PolicyDocument, ...], Field(min_length=1, max_length=10_000)]
    overrides: Annotated[tuple[OverrideDocument, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        problems = [*self._find_in_names(), *self._find_in_policies(), *self._find_in_overrides()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _find_in_names(self) -> Iterator[str]:
        yield from _find_doubles("subjects", self.subjects)
        yield from _find_doubles("attributes", self.attributes)
        if "action" in self.subjects:
            yield "subjects: `action` is no subject; a limit may name it in `per`"
        for position, attribute in enumerate(self.attributes):
            if attribute in {"user", "action"}:
                yield f"attributes[{position}]: `{attribute}` is no attribute of a check"
            elif attribute in self.subjects:
                yield f"attributes[{position}]: {attribute!r} is a subject already"
        if self.tier is not None and self.tier.attribute in {"user", "action"}:
            yield f"tier.attribute: `{self.tier.attribute}` is no attribute of a check"
        allowed = dict.fromkeys(("user", *self.subjects, *self.attributes))
        for key, kind in self.envoy.keys.items():
            if CALLER in {key, kind}:
                yield f"envoy.keys: {key!r}: `{CALLER}` is who calls, not what a descriptor says"
            elif kind not in allowed:
                yield f"envoy.keys: {key!r} names {kind!r}, which is not one of {', '.join(allowed)}"

    def _find_in_policies(self) -> Iterator[str]:
        matched: set[str] = set()
        also = 0
        yield from _find_doubles("policies", [policy.name for policy in self.policies], ".name")
        for position, policy in enumerate(self.policies):
            where, action = f"policies[{position}]", policy.match.action
            if policy.also:
                also += 1
                if also > MOST_ALSO_POLICIES:
                    yield f"{where}.also: at most {MOST_ALSO_POLICIES} policies may apply on top of others"
                for key in ("priority", "identity"):
                    if key in policy.model_fields_set:
                        yield f"{where}.{key}: is that of the policy that matched; an `also` policy has none"
            elif action in matched:
                yield f"{where}.match.action: {action!r} is matched by an earlier policy"
            else:
                matched.add(action)
            yield from _find_doubles(f"{where}.limits", [limit.name for limit in policy.limits], ".name")
            for number, limit in enumerate(policy.limits):
                yield from self._find_in_limit(limit, f"{where}.limits[{number}]")
        if "*" not in matched:
            yield 'policies: the catch-all is missing: a policy with match: { action: "*" }'

    def _find_in_limit(self, limit: LimitDocument, where: str) -> Iterator[str]:
        allowed = dict.fromkeys((*self.subjects, *self.attributes, "action"))
        yield from _find_doubles(f"{where}.per", limit.per)
        for place, kind in enumerate(limit.per):
            if kind not in allowed:
                yield f"{where}.per[{place}]: {kind!r} is not one of {', '.join(allowed)}"
        if limit.tiers and self.tier is None:
            yield f"{where}.tiers: the document does not say what a tier is: tier: {{ attribute: NAME }}"

    def _find_in_overrides(self) -> Iterator[str]:
        policies = {policy.name: {limit.name: limit for limit in policy.limits} for policy in self.policies}
        seen: dict[tuple[str, ...], int] = {}
        for position, override in enumerate(self.overrides):
            where = f"overrides[{position}]"
            first = seen.setdefault((override.subject.name, override.policy, override.limit), position)
            if first != position:
                yield f"{where}: overrides[{first}] is of the same subject and limit"
            yield from _find_in_override(override, where, self.subjects, policies)


def _find_in_override(
    override: OverrideDocument, where: str, subjects: tuple[str, ...], policies: Mapping[str, Mapping[str, LimitDocument]]
) -> Iterator[str]:
    kind = override.subject.kind
    limits = policies.get(override.policy)
    if kind not in subjects:
        yield f"{where}.subject.kind: {kind!r} is not one of {', '.join(subjects)}"
    elif limits is None:
        yield f"{where}.policy: no policy is called {override.policy!r}"
    elif (limit := limits.get(override.limit)) is None:
        yield f"{where}.limit: policy {override.policy} has no limit {override.limit!r}; it has {', '.join(limits) or 'none'}"
    elif kind not in limit.per:
        yield f"{where}.limit: the buckets of {override.policy}:{override.limit} are not per {kind}: they are others' too"


def _find_doubles(where: str, names: Iterable[str], key: str = "") -> Iterator[str]:
    seen: set[str] = set()
    for position, name in enumerate(names):
        if name in seen:
            yield f"{where}[{position}]{key}: {name!r} stands here a second time"
        seen.add(name)


def write_schema() -> dict[str, object]:
    """JSON Schema of policies.yaml, for editors. What spans several keys is left to ``check-config``."""
    return {"$schema": SCHEMA_ID, **PoliciesDocument.model_json_schema()}
