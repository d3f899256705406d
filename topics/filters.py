"""Choose events of one topic by what an analyst asks for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from hashlib import sha256
from typing import get_args
from urllib.parse import unquote

from topics.events import (
    ClosedEvent,
    DecisionEvent,
    Event,
    FoldsEvent,
    HeartbeatEvent,
    LoadEvent,
    Outcome,
    OutcomeEvent,
    Reason,
    SubjectEvent,
    VerdictEvent,
)

APPLICABLE: dict[str, frozenset[str]] = {
    "decisions": frozenset({"user", "subject", "action", "outcome", "reason", "policy"}),
    "denials": frozenset({"user", "subject", "action", "policy"}),
    "outcomes": frozenset({"action"}),
    "verdicts": frozenset({"user", "subject", "rule"}),
    "subjects": frozenset({"user", "subject", "rule"}),
    "dead_letters": frozenset(),
}
"""Which filters each topic knows: on the others they would quietly let nothing pass."""

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPAN = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")


@dataclass(frozen=True, slots=True)
class Filters:
    """What events have to match; None lets all pass.

    Attributes:
        user: A user id as the caller sent it.
        subject: ``kind=value``, the value escaped or not.
        action: Exact.
        outcome: ``allow``, ``deny`` or ``ban``.
        reason: ``ok``, ``limit``, ``banned``, ``throttled`` or ``open``.
        rule: Of a verdict, or of a ban that is in force.
        policy: Exact.
    """

    user: str | None = None
    subject: str | None = None
    action: str | None = None
    outcome: str | None = None
    reason: str | None = None
    rule: str | None = None
    policy: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """The filters that are set, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def check(self, topic: str) -> None:
        """Make sure that the filters make sense for a topic.

        Raises:
            ValueError: Says in one line which does not, and what would.
        """
        for name in self.given:
            if name not in APPLICABLE[topic]:
                known = ", ".join(f"--{each}" for each in sorted(APPLICABLE[topic])) or "no filter"
                raise ValueError(f"--{name} does not apply to {topic}, which knows {known}")
        for name, value, allowed in (("outcome", self.outcome, get_args(Outcome)), ("reason", self.reason, get_args(Reason))):
            if value is not None and value not in allowed:
                raise ValueError(f"--{name} {value!r} is none of {', '.join(allowed)}")
        if self.subject is not None and not self.subject.partition("=")[1]:
            raise ValueError(f"--subject {self.subject!r} is not of the form kind=value, as in user=alice")

    def select(self, event: Event) -> Event | None:
        """Give what is left of an event: all, a part of its folds, or None.

        Heartbeats and closing events never pass: they tell the audit something and people nothing. What is no answer to any
        filter, such as an announced gap, passes when there are none.
        """
        if isinstance(event, HeartbeatEvent | ClosedEvent):
            return None
        if not self.given:
            return event
        if isinstance(event, FoldsEvent):
            folds = tuple(
                fold
                for fold in event.folds
                if self._names(fold.subject) and _is(self.action, fold.action) and _is(self.policy, fold.policy)
            )
            return event.model_copy(update={"folds": folds}) if folds else None
        return event if self._matches(event) else None

    def _matches(self, event: Event) -> bool:
        if isinstance(event, DecisionEvent):
            return (
                _is(self.user, event.user_id)
                and self._is_about(event)
                and _is(self.action, event.action)
                and _is(self.outcome, event.outcome)
                and _is(self.reason, event.reason)
                and _is(self.policy, event.policy)
            )
        if isinstance(event, OutcomeEvent | LoadEvent):
            return _is(self.action, event.action)
        if isinstance(event, VerdictEvent):
            return self._names(event.subject) and _is(self.rule, event.rule)
        if isinstance(event, SubjectEvent):
            rules = {ban.rule for ban in event.state.bans} | {event.state.warn_rule}
            return self._names(event.subject) and (self.rule is None or self.rule in rules)
        return False

    def _is_about(self, event: DecisionEvent) -> bool:
        if self.subject is None:
            return True
        kind, _, value = self.subject.partition("=")
        carried = event.user_id if kind == "user" else event.attributes.get(kind)
        return carried is not None and (carried == value or matches_value(value, carried))

    def _names(self, subject: str) -> bool:
        """Tell whether a subject, as it stands in an event, is the one that is asked for."""
        kind, _, value = subject.partition("=")
        if self.user is not None and not (kind == "user" and matches_value(value, self.user)):
            return False
        if self.subject is None or self.subject == subject:
            return True
        asked_kind, _, asked = self.subject.partition("=")
        return kind == asked_kind and matches_value(value, asked)


def matches_value(escaped: str, plain: str) -> bool:
    """Tell whether a subject's value stands for a plain one: percent-encoded, or ``#`` and the SHA-256 of a long one."""
    if escaped.startswith("#"):
        return escaped[1:] == sha256(plain.encode(errors="surrogatepass")).hexdigest()
    return unquote(escaped, errors="surrogatepass") == plain


def parse_span_ms(text: str) -> int:
    """Read a span of time such as ``90s``, ``10m``, ``2h`` or ``7d``, in milliseconds.

    Raises:
        ValueError: It is not a whole number with one of these units.
    """
    found = _SPAN.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a span of time such as 90s, 10m, 2h or 7d")
    return int(found[1]) * _UNITS_MS[found[2]]


def parse_moment_ms(text: str, now_ms: int) -> int:
    """Read a span before now, such as ``24h``, or a time in ISO 8601, UTC unless it says otherwise; Unix milliseconds.

    Raises:
        ValueError: It is neither.
    """
    try:
        return now_ms - parse_span_ms(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither a span such as 24h nor a time such as 2026-11-24T12:00Z") from error
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _is(wanted: str | None, found: str) -> bool:
    return wanted is None or wanted == found
