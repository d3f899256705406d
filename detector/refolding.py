"""Fold recorded decisions again, as the enforcers that made them did. Pure.

The record names the limits that refused; whom they are about only the policies tell. Folds come within one flush of those that
were written live: a flush is 50 ms of event time here, and of an enforcer's own clock there.
"""

from __future__ import annotations

from functools import lru_cache

from config.declared import DeclaredPolicies
from lua.keys import name_attribute, name_subject
from topics.folding import Folds
from topics.recorded import Recorded
from topics.wire import FoldsEvent

FLUSH_MS = 50
"""As enforcers fold."""
_UNLOWERED = 1000


class Refolder:
    """Turns decisions into the records of topic ``denials`` that they led to. Feed it in the order of time."""

    def __init__(self, policies: DeclaredPolicies) -> None:
        """Fold by the limits of ``policies``: those that were in force when the decisions were made."""
        self._foldable = policies.foldable
        self._folds: dict[str, Folds] = {}
        self._numbers: dict[str, int] = {}
        self._flush_at_ms = 0
        self._find_blamed = lru_cache(maxsize=4096)(self._blame)
        self._kinds = policies.subjects
        self._kinds_of = {
            f"{policy.name}:{limit.name}": tuple(kind for kind in policies.subjects if kind in limit.per)
            for policy in policies.policies
            for limit in policy.limits
        }
        self.uncertain = 0
        """Refusals under a throttle factor by several limits: the record does not tell which would have refused without it.
        They count by all."""
        self.unknown = 0
        """Refusals by limits that the policies do not have: they count against nobody."""

    def add(self, record: Recorded) -> list[FoldsEvent]:
        """Take one decision; gives what was flushed before it."""
        flushed = self.flush() if record.decided_at_ms >= self._flush_at_ms else []
        source = record.source
        folds = self._folds.get(source)
        if folds is None:
            folds = self._folds[source] = Folds(self._foldable)
        if record.suppressed_limits:
            self._count(folds, record, record.suppressed_limits, record.suppressed)
        if record.outcome == "allow":
            if folds.has_refused and record.cost > 0:
                for subject in self._name_subjects(record):
                    folds.admit(subject, record.action)
        elif record.reason == "limit" and not record.degraded:
            if record.factor != _UNLOWERED and len(record.limits) > 1:
                self.uncertain += 1
            count = 1 if record.suppressed_limits else 1 + record.suppressed
            self._count(folds, record, record.limits, count)
        if not self._flush_at_ms:
            self._flush_at_ms = record.decided_at_ms // FLUSH_MS * FLUSH_MS + FLUSH_MS
        return flushed

    def flush(self) -> list[FoldsEvent]:
        """Give what is folded so far."""
        at_ms, self._flush_at_ms = self._flush_at_ms, 0
        events = []
        for source, folds in self._folds.items():
            if len(folds):
                number = self._numbers[source] = self._numbers.get(source, 0) + 1
                events.append(FoldsEvent(source, number, at_ms, folds.take()))
        return events

    def _count(self, folds: Folds, record: Recorded, labels: tuple[str, ...], count: int) -> None:
        blamed, has_unknown = self._find_blamed(labels)
        self.unknown += has_unknown
        for kind, policy, limit in blamed:
            value = record.user_id if kind == "user" else record.attributes.get(kind)
            if value:
                subject = _name(kind, value)
                folds.count(
                    subject, record.action, policy, limit, record.decided_at_ms, count, record.user_id, record.attributes
                )

    def _blame(self, labels: tuple[str, ...]) -> tuple[tuple[tuple[str, str, str], ...], bool]:
        """Which kinds refusals by these limits count against, and for which limit: the first that is about them."""
        blamed: dict[str, tuple[str, str, str]] = {}
        for label in labels:
            policy, _, limit = label.partition(":")
            for kind in self._kinds_of.get(label, ()):
                blamed.setdefault(kind, (kind, policy, limit))
        return tuple(blamed.values()), any(label not in self._kinds_of for label in labels)

    def _name_subjects(self, record: Recorded) -> list[str]:
        names = [_name("user", record.user_id)] if record.user_id else []
        attributes = record.attributes
        if attributes:
            names += [_name(kind, attributes[kind]) for kind in self._kinds if attributes.get(kind)]
        return names


@lru_cache(maxsize=65_536)
def _name(kind: str, value: str) -> str:
    return name_subject(kind, value) if kind == "user" else name_attribute(kind, value)
