"""Event-time windows: how many denials of one subject fell within one rule's window. Pure.

A window is a ring of buckets, each a twelfth of the window wide (at least 100 ms). A bucket knows its first refusal, and
counts as long as that one is inside the window; then it is dropped whole. So nothing outside the window is ever counted, and
what is counted is exact until a bucket straddles the edge: then the window that is seen is shorter than the rule's, by less
than one bucket. Denials that are spread over at most 11/12 of the window are always found.
"""

from __future__ import annotations

import msgspec

from detector.rules import Rule
from topics.events import Fold

BUCKETS = 12
NARROWEST_MS = 100


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """Denials of one stretch of event time."""

    slot: int
    """Event time divided by the bucket's width."""
    count: int
    first_ms: int
    """Earliest refusal in it, counted from the start of the slot; below 0 for a fold that began before it."""


class Window(msgspec.Struct, frozen=True, array_like=True):
    """What one subject did by one rule. An empty window is one that was never used."""

    width_ms: int = 0
    """Of a bucket. A rule whose window changed starts with an empty one."""
    newest_ms: int = 0
    """Latest event time seen: the ring's own clock. Late is judged by it, not by anybody else's events."""
    buckets: tuple[Bucket, ...] = ()
    """By slot, without empty ones; at most 13."""


class Crossing(msgspec.Struct, frozen=True):
    """A rule was crossed: the evidence."""

    rule: str
    subject: str
    count: int
    """Denials in the window, those of the whole fold that crossed included."""
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


def measure_width_ms(window_ms: int) -> int:
    """Width of the buckets of a window, in milliseconds."""
    return max(NARROWEST_MS, -(-window_ms // BUCKETS))


def advance(window: Window, fold: Fold, rule: Rule) -> Advance:
    """Count one fold that the rule covers.

    A crossing empties the window; what the fold holds beyond the threshold counts on. A fold is one offence at most, however
    often it holds the threshold: its refusals came within one flush.

    Folds may come in any order: one that is older than the newest, but inside the window, counts in its own bucket.

    Args:
        window: Before.
        fold: Refusals between ``first_ms`` and ``last_ms``.
        rule: Counts within (newest - window, newest]; a refusal exactly one window old is outside.
    """
    width_ms = measure_width_ms(rule.window_ms)
    if window.width_ms != width_ms:
        window = Window(width_ms=width_ms)
    newest_ms = max(window.newest_ms, fold.last_ms)
    edge_ms = newest_ms - rule.window_ms
    if fold.first_ms <= edge_ms:
        return Advance(window, is_late=True)

    slot = fold.last_ms // width_ms
    count, first_ms = fold.count, fold.first_ms
    others = []
    for bucket in window.buckets:
        bucket_first_ms = bucket.slot * width_ms + bucket.first_ms
        if bucket_first_ms <= edge_ms:
            continue
        if bucket.slot == slot:
            count, first_ms = count + bucket.count, min(first_ms, bucket_first_ms)
        else:
            others.append(bucket)
    total = count + sum(bucket.count for bucket in others)
    if total < rule.threshold:
        mine = Bucket(slot, count, first_ms - slot * width_ms)
        buckets = tuple(sorted((*others, mine), key=lambda bucket: bucket.slot))
        return Advance(Window(width_ms, newest_ms, buckets))

    crossing = Crossing(
        rule=rule.name,
        subject=fold.subject,
        count=total,
        first_ms=min(first_ms, *(bucket.slot * width_ms + bucket.first_ms for bucket in others)) if others else first_ms,
        last_ms=newest_ms,
    )
    rest = total % rule.threshold
    left = (Bucket(slot, rest, fold.first_ms - slot * width_ms),) if rest else ()
    return Advance(Window(width_ms, newest_ms, left), crossing)


def count_denials(window: Window) -> int:
    """Denials that the window holds, also those that have meanwhile left it."""
    return sum(bucket.count for bucket in window.buckets)
