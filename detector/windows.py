"""Event-time windows: what one subject did within one rule's window. Pure.

A window is a ring of buckets, each a twelfth of the window wide (at least 100 ms). A bucket knows its first refusal, and
counts as long as that one is inside the window; then it is dropped whole. So nothing outside the window is ever counted, and
what is counted is exact until a bucket straddles the edge: then the window that is seen is shorter than the rule's, by less
than one bucket. Denials that are spread over at most 11/12 of the window are always found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from detector.watches import Watch
from topics.wire import Fold

_MEMBER_BITS = 16
"""Distinct actions and users are told apart by so much of their hashes: three bytes each, so that a row stays below 300. Two of
40 are taken for one in 1 of 84 windows, which then counts one too few, never too many."""


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """What happened in one stretch of event time."""

    slot: int
    """Event time divided by the bucket's width."""
    count: int
    """Denials."""
    first_ms: int
    """Earliest refusal in it, counted from the start of the slot; below 0 for a fold that began before it."""
    admitted: int = 0
    """Checks that passed; where a rule has a gate."""
    members: tuple[int, ...] = ()
    """Hashes of the distinct users or actions that were last seen here; where a rule counts them."""


class Window(msgspec.Struct, frozen=True, array_like=True):
    """What one subject did by one threshold. An empty window is one that was never used."""

    width_ms: int = 0
    """Of a bucket. A rule whose window changed starts with an empty one."""
    newest_ms: int = 0
    """Latest event time seen: the ring's own clock. Late is judged by it, not by anybody else's events."""
    buckets: tuple[Bucket, ...] = ()
    """By slot, without empty ones; at most 13."""
    quiet_until_ms: int = 0
    """Refusals of before are not counted: the rule cools down after an offence."""


class Crossing(msgspec.Struct, frozen=True):
    """A threshold was crossed: the evidence."""

    watch: Watch
    subject: str
    count: int
    """Of what the rule counts, in the window, the whole fold that crossed included."""
    denials: int
    admitted: int
    """0 where the rule has no gate."""
    first_ms: int
    last_ms: int
    """Event time of the offence."""
    fold: int = 0
    """Which fold of its record crossed, from 0."""


class Advance(msgspec.Struct, frozen=True):
    """What one fold did to one window."""

    window: Window
    crossing: Crossing | None = None
    is_late: bool = False
    """The fold was older than the window and was dropped."""


def advance(window: Window, fold: Fold, watch: Watch) -> Advance:
    """Count one fold that the watch covers.

    A crossing empties the window; of denials, what the fold holds beyond the threshold counts on. A fold is one offence at
    most, however often it holds the threshold: its refusals came within one flush. A gate that is shut empties nothing: the
    window crosses with the first fold that finds it open.

    Folds may come in any order: one that is older than the newest, but inside the window, counts in its own bucket.

    Args:
        window: Before.
        fold: Refusals between ``first_ms`` and ``last_ms``.
        watch: Counts within (newest - window, newest]; a refusal exactly one window old is outside.
    """
    width_ms = watch.width_ms
    if window.width_ms != width_ms:
        window = Window(width_ms, quiet_until_ms=window.quiet_until_ms)
    if fold.last_ms < window.quiet_until_ms:
        return Advance(window)
    newest_ms = max(fold.last_ms, window.newest_ms)
    edge_ms = newest_ms - watch.window_ms
    if fold.first_ms <= edge_ms:
        return Advance(window, is_late=True)

    slot = fold.last_ms // width_ms
    mine = Bucket(slot, fold.count, fold.first_ms - slot * width_ms, fold.admitted if watch.most_admitted is not None else 0)
    others = []
    denials = fold.count
    for bucket in window.buckets:
        if bucket.slot * width_ms + bucket.first_ms <= edge_ms:
            continue
        denials += bucket.count
        if bucket.slot == slot:
            mine = Bucket(
                slot,
                mine.count + bucket.count,
                min(mine.first_ms, bucket.first_ms),
                mine.admitted + bucket.admitted,
                bucket.members,
            )
        else:
            others.append(bucket)
    if watch.counts != "denials":
        mine, others = _add_members(mine, others, _find_members(fold, watch), watch.threshold)
        total = len(mine.members) + sum(len(bucket.members) for bucket in others)
    else:
        total = denials
    if total < watch.threshold or (watch.most_admitted is not None and _is_shut(mine, others, denials, watch.most_admitted)):
        if others and others[-1].slot > slot:
            buckets = tuple(sorted((*others, mine), key=lambda bucket: bucket.slot))
        else:
            buckets = (*others, mine)
        return Advance(Window(width_ms, newest_ms, buckets, window.quiet_until_ms))

    crossing = Crossing(
        watch=watch,
        subject=fold.subject,
        count=total,
        denials=denials,
        admitted=mine.admitted + sum(bucket.admitted for bucket in others),
        first_ms=min(bucket.slot * width_ms + bucket.first_ms for bucket in (mine, *others)),
        last_ms=newest_ms,
    )
    quiet_until_ms = newest_ms + watch.cool_down_ms if watch.cool_down_ms else window.quiet_until_ms
    rest = 0 if watch.counts != "denials" or watch.cool_down_ms else total % watch.threshold
    left = (Bucket(slot, rest, fold.first_ms - slot * width_ms),) if rest else ()
    return Advance(Window(width_ms, newest_ms, left, quiet_until_ms), crossing)


def count_denials(window: Window) -> int:
    """Denials that the window holds, also those that have meanwhile left it."""
    return sum(bucket.count for bucket in window.buckets)


def _is_shut(mine: Bucket, others: Iterable[Bucket], denials: int, most_admitted: int) -> bool:
    """Whether a greater share passed than the gate allows."""
    admitted = mine.admitted + sum(bucket.admitted for bucket in others)
    return admitted * 1000 > most_admitted * (admitted + denials)


def _find_members(fold: Fold, watch: Watch) -> tuple[int, ...]:
    if watch.counts == "users":
        return fold.users
    return fold.actions or (_hash_action(fold.action),)


@lru_cache(maxsize=4096)
def _hash_action(action: str) -> int:
    """As the enforcer hashes it: 48 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(action.encode(), digest_size=6).digest())


def _add_members(mine: Bucket, others: list[Bucket], members: Iterable[int], most: int) -> tuple[Bucket, list[Bucket]]:
    """Add what a fold saw to its bucket; each member stands in one bucket alone, the latest that saw it.

    No more than ``most`` are kept, which is the threshold: the earliest go.
    """
    seen = {member & (1 << _MEMBER_BITS) - 1 for member in members}
    later = {member for bucket in others if bucket.slot > mine.slot for member in bucket.members}
    added = (*mine.members, *sorted(seen - later - set(mine.members)))[-most:]
    kept: list[Bucket] = []
    room = most - len(added)
    for bucket in sorted(others, key=lambda bucket: -bucket.slot):
        left = bucket.members
        if bucket.slot < mine.slot:
            left = tuple(member for member in left if member not in seen)
        left = left[-room:] if room else ()
        room -= len(left)
        kept.append(Bucket(bucket.slot, bucket.count, bucket.first_ms, bucket.admitted, left))
    kept.reverse()
    return Bucket(mine.slot, mine.count, mine.first_ms, mine.admitted, added), kept
