"""Fold refusals: those of one flush that count against one subject by one limit become one record. Pure.

Whom a refusal counts against is the writer's business; this is what a fold holds, the same whether decisions are folded as
they are made or again from their record.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from topics.wire import Fold

MOST_HASHES = 64
MOST_REFUSED = 50_000
"""Subjects whose admits are counted: those refused lately."""

MOST_OPEN = 100_000
"""Folds held while Kafka is away; further refusals of other subjects are then not counted against anybody."""
_LONGEST_MS = 1000
"""A fold never spans two seconds, also when flushes are late: windows need to know when."""

Key = tuple[str, str, str, str, int]
"""Subject, action, policy, limit, second."""


def hash_text(text: str) -> int:
    """48 bits of BLAKE2b: tells texts apart in counts of distinct ones, and stays exact in JSON."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest())


@dataclass(slots=True)
class _Open:
    count: int
    admitted: int
    first_ms: int
    last_ms: int
    attributes: dict[str, str]
    users: set[int]


@dataclass(slots=True)
class Folds:
    """Folds refusals until they are taken. Holds at most ``MOST_REFUSED`` counts of admits; the oldest go first."""

    foldable: tuple[str, ...] = ()
    """Attributes to keep where all the refusals of a fold share them."""
    uncounted: int = 0
    """Refusals that no fold was left for."""
    _open: dict[Key, _Open] = field(default_factory=dict)
    _admitted: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def has_refused(self) -> bool:
        """Whether anybody was refused lately, so that admits count."""
        return bool(self._admitted)

    def count(
        self,
        subject: str,
        action: str,
        policy: str,
        limit: str,
        at_ms: int,
        count: int,
        user_id: str,
        attributes: Mapping[str, str],
    ) -> None:
        """Count refusals against one subject.

        Args:
            subject: ``kind=value``.
            action: What was asked for.
            policy: Of the limit that refused.
            limit: Its name.
            at_ms: When.
            count: How many, at least 1.
            user_id: Who asked.
            attributes: Of the check; those that are foldable are kept.
        """
        key = (subject, action, policy, limit, at_ms // _LONGEST_MS)
        kept = {name: attributes[name] for name in self.foldable if name in attributes} if self.foldable else {}
        fold = self._open.get(key)
        if fold is None:
            if len(self._open) >= MOST_OPEN:
                self.uncounted += count
                return
            admits = (subject, action)
            fold = _Open(count, self._admitted.pop(admits, 0), at_ms, at_ms, kept, set())
            self._open[key] = fold
            self._admitted[admits] = 0
            if len(self._admitted) > MOST_REFUSED:
                self._admitted.popitem(last=False)
        else:
            fold.count += count
            if at_ms < fold.first_ms:  # decisions may be told out of order, seldom
                fold.first_ms = at_ms
            elif at_ms > fold.last_ms:
                fold.last_ms = at_ms
            if fold.attributes != kept:
                fold.attributes = dict(fold.attributes.items() & kept.items())
        if not subject.startswith("user=") and len(fold.users) < MOST_HASHES:
            fold.users.add(hash_text(user_id))

    def admit(self, subject: str, action: str) -> None:
        """Count a check that passed, if the subject was refused this action lately."""
        key = (subject, action)
        if key in self._admitted:
            self._admitted[key] += 1

    def take(self) -> list[Fold]:
        """Hand out the folds since the last call, and begin anew."""
        folds = [
            Fold(
                subject,
                action,
                policy,
                limit,
                fold.count,
                fold.first_ms,
                fold.last_ms,
                fold.admitted,
                tuple(sorted(fold.users)),
                attributes=fold.attributes,
            )
            for (subject, action, policy, limit, _), fold in self._open.items()
        ]
        self._open.clear()
        return folds
