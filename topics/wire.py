"""The events of the decision path as msgspec structs: what a writer builds for every decision, in a fraction of the time.

Field for field the models of :mod:`topics.events` (a test compares them); a field that has its default is left out.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Number = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class DecisionEvent(msgspec.Struct, tag="decision", tag_field="type", omit_defaults=True, gc=False):
    """See :class:`topics.events.DecisionEvent`."""

    source: str
    seq: int
    decided_at_ms: int
    user_id: str
    action: str
    policy: str
    policy_version: str
    outcome: str
    reason: str
    v: int = 1
    attributes: dict[str, str] = {}
    limits: tuple[str, ...] = ()
    shadow_limits: tuple[str, ...] = ()
    degraded: bool = False
    cached: bool = False
    suppressed: int = 0
    cost: int = 1
    remaining: int = 0
    retry_after_ms: int = 0
    factor: int = 1000
    ban_until_ms: int | None = None
    verdict_id: str | None = None
    suppressed_limits: tuple[str, ...] = ()
    reported: bool = False


class GapEvent(msgspec.Struct, tag="gap", tag_field="type", omit_defaults=True, gc=False):
    """See :class:`topics.events.GapEvent`."""

    source: str
    ranges: tuple[tuple[int, int], ...]
    at_ms: int
    reason: str
    v: int = 1


class HeartbeatEvent(
    msgspec.Struct, tag="heartbeat", tag_field="type", omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """See :class:`topics.events.HeartbeatEvent`."""

    source: str
    seq: Count
    at_ms: Count
    v: Literal[1] = 1


class ClosedEvent(msgspec.Struct, tag="closed", tag_field="type", omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """See :class:`topics.events.ClosedEvent`."""

    source: str
    seq: Count
    at_ms: Count
    v: Literal[1] = 1


class Fold(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """See :class:`topics.events.Fold`."""

    subject: str
    action: str
    policy: str
    limit: str
    count: Number
    first_ms: Count
    last_ms: Count
    admitted: Count = 0
    users: tuple[int, ...] = ()
    actions: tuple[int, ...] = ()
    attributes: dict[str, str] = {}


class FoldsEvent(msgspec.Struct, tag="folds", tag_field="type", omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """See :class:`topics.events.FoldsEvent`."""

    source: str
    n: Number
    at_ms: Count
    folds: list[Fold]
    v: Literal[1] = 1


DenialRecord = FoldsEvent | HeartbeatEvent | ClosedEvent


class OutcomeEvent(msgspec.Struct, tag="outcome", tag_field="type", omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """See :class:`topics.events.OutcomeEvent`."""

    source: str
    n: Number
    action: str
    second_ms: Count
    count: Count
    errors: Count = 0
    timeouts: Count = 0
    latencies: dict[int, Count] = {}
    v: Literal[1] = 1


class LoadEvent(msgspec.Struct, tag="load", tag_field="type", omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """See :class:`topics.events.LoadEvent`."""

    source: str
    n: Number
    action: str
    second_ms: Count
    admitted_tokens: Count
    active_subjects: Count
    refill_milli_per_s: Count
    priority: Annotated[int, msgspec.Meta(ge=1, le=10)] = 5
    v: Literal[1] = 1


OutcomeRecord = OutcomeEvent | LoadEvent | HeartbeatEvent | ClosedEvent
