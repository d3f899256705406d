"""Every event that Ratchet writes to Kafka, as frozen pydantic models.

Events are JSON objects in UTF-8. Writers may leave out a field that has its default; readers fill it in. Instants are whole
milliseconds since the Unix epoch (``_ms``), factors are per mille (1000 is none), amounts are whole tokens.
Unknown fields are refused: an incompatible change is a new ``v``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Outcome = Literal["allow", "deny", "ban"]
Reason = Literal["ok", "limit", "banned", "throttled", "open"]
Penalty = Literal["none", "warn", "tighten", "ban", "lift", "forgive", "reset", "override", "reload", "throttle"]
VerdictResult = Literal["applied", "during_ban", "already_over", "stale", "overruled", "shadow", "exempt"]

PerMille = Annotated[int, Field(ge=0, le=1000)]
Count = Annotated[int, Field(ge=0)]
Instant = Annotated[int, Field(ge=0)]


class Event(BaseModel):
    """What all events share: frozen, no unknown fields, documented by the strings below each field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    v: Literal[1] = 1
    """Version of this event's shape."""


class DecisionEvent(Event):
    """One decision of one enforcer. Topic ``decisions``, key: the user's subject."""

    type: Literal["decision"] = "decision"
    source: str
    """Who decided: ``instance/worker/boot``. A new boot is a new source."""
    seq: Annotated[int, Field(ge=1)]
    """Number of this decision in its source, contiguous from 1 over all partitions."""
    decided_at_ms: Instant
    """On the Redis server's clock; on the enforcer's own while degraded."""
    user_id: str
    action: str
    attributes: dict[str, str] = {}
    policy: str
    policy_version: str
    """Hash of the policies document in force."""
    limits: tuple[str, ...] = ()
    """Names of the limits that refused, `policy:limit`."""
    shadow_limits: tuple[str, ...] = ()
    """Names of the limits in shadow mode that would have refused."""
    outcome: Outcome
    reason: Reason
    degraded: bool = False
    """Decided without Redis."""
    cached: bool = False
    """Answered from the enforcer's memory of a refusal that was still certain."""
    suppressed: Count = 0
    """Denials that the client answered from its own memory before this check."""
    suppressed_limits: tuple[str, ...] = ()
    """Names of the limits that had refused those, `policy:limit`."""
    cost: int = 1
    """Tokens; below 0 they were given back. Where limits were asked for different amounts, the largest."""
    remaining: int = 0
    """Whole tokens left in the bucket that is nearest to empty."""
    retry_after_ms: Count = 0
    factor: PerMille = 1000
    ban_until_ms: Instant | None = None
    verdict_id: str | None = None
    """The verdict that the ban comes from."""
    reported: bool = False
    """Decided by a data plane that counts for itself under a quota, and reported afterwards, many requests in one event:
    ``cost`` is how many it let pass; of refusals there are ``suppressed`` + 1."""


class GapEvent(Event):
    """Decisions that were dropped before Kafka had them, announced. Topic ``decisions``, any partition."""

    type: Literal["gap"] = "gap"
    source: str
    ranges: tuple[tuple[int, int], ...]
    """First and last ``seq`` of each dropped run, both included."""
    at_ms: Instant
    reason: Literal["buffer_full", "spool_full", "spool_corrupt", "refused"]


class HeartbeatEvent(Event):
    """Written every second to every partition, so that a reader can prove that nothing is missing up to it."""

    type: Literal["heartbeat"] = "heartbeat"
    source: str
    seq: Count
    """In ``decisions``: the source's last ``seq``. Elsewhere: its last ``n`` in this partition. 0 before the first."""
    at_ms: Instant


class ClosedEvent(Event):
    """The last event of a source that drained in order, in every partition."""

    type: Literal["closed"] = "closed"
    source: str
    seq: Count
    """As in the heartbeat; nothing of this source follows."""
    at_ms: Instant


class Fold(BaseModel):
    """The refusals of one flush that count against one subject by one limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    subject: str
    """``kind=value``, escaped as in the Redis keys."""
    action: str
    policy: str
    limit: str
    count: Annotated[int, Field(ge=1)]
    """Refusals, with those that clients suppressed."""
    admitted: Count = 0
    """Checks of this subject, action and limit that were allowed since its last fold."""
    first_ms: Instant
    last_ms: Instant
    users: tuple[int, ...] = ()
    """Up to 64 hashes (48 bits) of the distinct users behind the refusals; empty for a user's own fold."""
    actions: tuple[int, ...] = ()
    """Up to 64 hashes (48 bits) of the distinct actions; empty when it is ``action`` alone."""
    attributes: dict[str, str] = {}
    """Attributes that policies.yaml declares as foldable, when all the refusals share them."""


class FoldsEvent(Event):
    """All folds of one flush that go to one partition. Topic ``denials``, partitioned by the folds' subject."""

    type: Literal["folds"] = "folds"
    source: str
    n: Annotated[int, Field(ge=1)]
    """Number of this record among those of its source in its partition, contiguous from 1."""
    at_ms: Instant
    """Time of the flush."""
    folds: tuple[Fold, ...]


class OutcomeEvent(Event):
    """How a backend fared with one action in one second, merged over one enforcer's clients. Topic ``outcomes``."""

    type: Literal["outcome"] = "outcome"
    source: str
    n: Annotated[int, Field(ge=1)]
    """Number of this record among those of its source in its partition, contiguous from 1."""
    action: str
    second_ms: Instant
    count: Count
    errors: Count = 0
    timeouts: Count = 0
    latencies: dict[int, int] = {}
    """Counts by bucket, as :mod:`topics.sketch` says; they hold all of ``count``, timeouts as the timeout."""


class LoadEvent(Event):
    """What one enforcer admitted of one action in about one second. Topic ``outcomes``."""

    type: Literal["load"] = "load"
    source: str
    n: Annotated[int, Field(ge=1)]
    """As in :class:`OutcomeEvent`; both are numbered together."""
    action: str
    second_ms: Instant
    """The enforcer's own clock."""
    admitted_tokens: Count
    """Less those that were given back."""
    active_subjects: Count
    """Different buckets of the policy's narrowest limit in force that admitted something; 0 where there is no limit."""
    refill_milli_per_s: Count
    """Sum of the refill rates of these buckets, in 1/1000 tokens per second."""
    priority: Annotated[int, Field(ge=1, le=10)] = 5
    """Of the action's policy; 10 is throttled last."""


class Ban(BaseModel):
    """One ban of one subject."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    until_ms: Instant
    level: Count
    """Rung of the ladder, from 1; 0 for a ban imposed by a person."""
    rule: str
    """Empty for a ban imposed by a person."""
    verdict_id: str
    scope: tuple[str, ...]
    """Globs of the actions that are refused; ``*`` stands for any run of characters."""


class AbuseState(BaseModel):
    """Everything that Redis knows against one subject: the value of ``abuse:{subject}``, as JSON in this order of fields.

    Written by the scripts that change it and by nothing else; published by them, and copied into topic ``subjects``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    v: Literal[1] = 1
    rev: Annotated[int, Field(ge=1)]
    """Grows by one with each change; readers keep the highest."""
    score: Count = 0
    """Strike score in 1/1000 strikes, as it stood at ``score_at_ms``."""
    score_at_ms: Instant = 0
    """From when the score decays: the end of the last ban, or the last offence."""
    half_life_ms: Count = 0
    """After this time half the score is left, as the ladder said when the score last grew; 0 while it never did."""
    level: Count = 0
    """Highest rung reached since the score was last zero."""
    offences: Count = 0
    human_at_ms: Instant = 0
    """Time of the last human decision; automatic verdicts of before change nothing."""
    factor: PerMille = 1000
    """Tightening of this subject's limits."""
    factor_until_ms: Instant = 0
    factor_verdict: str = ""
    warn_until_ms: Instant = 0
    warn_rule: str = ""
    warn_verdict: str = ""
    bans: tuple[Ban, ...] = ()
    """Latest end first."""


class Evidence(BaseModel):
    """What the detector saw when a rule was crossed."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    count: Count
    """Of what the rule counts."""
    counts: Literal["denials", "actions", "users"] = "denials"
    denials: Count = 0
    threshold: Count
    window_ms: Count
    first_ms: Instant
    """Earliest refusal in the window."""
    last_ms: Instant
    admitted: Count = 0
    partition: Count
    offset: Count
    """The record of topic ``denials`` that crossed the threshold."""
    source: str
    n: Count


class Override(BaseModel):
    """Other terms of one limit for one subject."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    policy: str
    limit: str
    capacity: Count = 0
    """Tokens; 0: the override was removed."""
    refill: str = ""
    """Tokens per time: ``5/1m``."""
    until_ms: Instant = 0


class VerdictEvent(Event):
    """A change of what is held against a subject, of its terms, of an action's factor, or of the policies: the audit.

    Topic ``verdicts``, key: subject.
    """

    type: Literal["verdict"] = "verdict"
    verdict_id: str
    subject: str
    """``kind=value``; of a throttle ``action=login``, of a reload ``policies``."""
    penalty: Penalty
    result: VerdictResult
    """``applied``, or why nothing changed."""
    rule: str = ""
    """Empty for a human decision."""
    rule_version: str = ""
    """Of the rules; of a reload, of the policies."""
    severity: Literal["", "low", "medium", "high", "critical"] = ""
    """As the rule says; empty for a human decision."""
    rung: Count = 0
    at_ms: Instant
    """Event time of the offence, or when the person decided."""
    applied_at_ms: Instant
    """Redis time of the change."""
    rev: Count = 0
    """Of the subject; of an override, of all overrides; of a reload, the generation."""
    score_before: Count = 0
    score_after: Count = 0
    level: Count = 0
    scope: tuple[str, ...] = ()
    ban_until_ms: Instant | None = None
    factor: PerMille = 1000
    actor: str = "detector"
    reason: str = ""
    """For a person to read: why."""
    evidence: Evidence | None = None
    override: Override | None = None


class SubjectEvent(Event):
    """The latest state of one subject. Topic ``subjects``, compacted, key: subject; readers keep the highest ``rev``."""

    type: Literal["subject"] = "subject"
    subject: str
    state: AbuseState


class DeadLetter(Event):
    """A record that could not be decoded or handled, whole, with its origin. Topic ``dead_letters``."""

    type: Literal["dead_letter"] = "dead_letter"
    topic: str
    partition: Count
    offset: Count
    error: str
    at_ms: Instant
    key_base64: str = ""
    """The record's key, cut at 64 KiB."""
    value_base64: str = ""
    """The record's value, cut at 64 KiB."""
    value_bytes: Count
    """Its whole length."""


DecisionRecord = Annotated[DecisionEvent | GapEvent | HeartbeatEvent | ClosedEvent, Field(discriminator="type")]
DenialRecord = Annotated[FoldsEvent | HeartbeatEvent | ClosedEvent, Field(discriminator="type")]
OutcomeRecord = Annotated[OutcomeEvent | LoadEvent | HeartbeatEvent | ClosedEvent, Field(discriminator="type")]

RECORDS: dict[str, TypeAdapter[Event]] = {
    "decisions": TypeAdapter(DecisionRecord),
    "denials": TypeAdapter(DenialRecord),
    "outcomes": TypeAdapter(OutcomeRecord),
    "verdicts": TypeAdapter(VerdictEvent),
    "subjects": TypeAdapter(SubjectEvent),
    "dead_letters": TypeAdapter(DeadLetter),
}
"""What each topic holds: validates one record's value (``validate_json``)."""
