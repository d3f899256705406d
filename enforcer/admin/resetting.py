"""Which buckets are one subject's alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from enforcer.limits.policy import Limit, Policy
from lua.keys import join_subjects, name_bucket, name_subject

MOST_BUCKETS = 1_000
"""What one reset may fill: a few milliseconds of Redis."""


class TooManyBuckets(ValueError):  # noqa: N818 it says what is the case
    """The subject may have more than ``MOST_BUCKETS``. Name a policy."""


class Buckets(NamedTuple):
    """What a reset fills."""

    keys: dict[str, list[str]]
    """Of the buckets, by what stands in their braces; a Redis Cluster keeps those together."""
    left: tuple[str, ...]
    """Limits, as ``policy:limit``, that count this kind of subject and have buckets that are not found from the subject."""


def find_buckets(policies: Iterable[Policy], subject: str, action: str) -> Buckets:
    """Find the buckets that are the subject's alone.

    Args:
        policies: Whose limits.
        subject: ``kind=value``.
        action: Of limits that count each action for itself, whose bucket; empty: those are left.

    Raises:
        TooManyBuckets: Say so.
    """
    kind = subject.partition("=")[0]
    keys: dict[str, list[str]] = {}
    left: list[str] = []
    for limit in (limit for policy in policies for limit in policy.limits if kind in limit.per):
        if set(limit.per) - {kind, "action"} or ("action" in limit.per and not action):
            left.append(limit.label)
            continue
        names = [name_subject("action", action) if part == "action" else subject for part in limit.per]
        keys.setdefault(names[0], []).extend(_name_forms(limit, join_subjects(names)))
    count = sum(map(len, keys.values()))
    if count > MOST_BUCKETS:
        raise TooManyBuckets(f"policy is empty, and {subject} may have {count} buckets; name one, {MOST_BUCKETS} are allowed")
    return Buckets(keys, tuple(left))


def _name_forms(limit: Limit, subject: str) -> list[str]:
    """The limit's bucket in each tier, enforced and in shadow mode: it may have changed between them."""
    return [
        name_bucket(subject, limit.policy, limit.name, tier, is_shadow=is_shadow)
        for tier in ("", *limit.tiers)
        for is_shadow in (False, True)
    ]
