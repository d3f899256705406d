"""Say an event in one line for a person to read. Pure.

What comes from outside (user ids, actions, errors) never reaches a terminal raw: characters that do not print are escaped, so
that nobody can forge a line or steer the reader's terminal with a user id.
"""

from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime

from topics.events import (
    AbuseState,
    DeadLetter,
    DecisionEvent,
    Event,
    Fold,
    FoldsEvent,
    GapEvent,
    LoadEvent,
    OutcomeEvent,
    Override,
    SubjectEvent,
    VerdictEvent,
)
from topics.sketch import estimate_us

Part = tuple[str, str]
"""Text, and a style as rich names it; no style when empty."""

Line = list[Part]

LONGEST_VALUE_CHARS = 120

_OUTCOME_STYLES = {"allow": "green", "deny": "yellow", "ban": "bold red"}
_RESULTS = {
    "applied": "",
    "during_ban": "changed nothing: a ban was running",
    "already_over": "changed nothing: it would be over by now",
    "stale": "changed nothing: it came too late",
    "overruled": "changed nothing: a person decided later",
    "shadow": "changed nothing: the rule is in shadow mode",
    "exempt": "changed nothing: the subject is on the allowlist",
}


def say(event: Event) -> list[Line]:
    """Say an event: one line, for a record of folds one per fold, for marks none."""
    if isinstance(event, FoldsEvent):
        return [_say_fold(fold) for fold in event.folds]
    line: Line = []
    if isinstance(event, DecisionEvent):
        line = _say_decision(event)
    elif isinstance(event, VerdictEvent):
        line = _say_verdict(event)
    elif isinstance(event, SubjectEvent):
        line = [(clean(event.subject), "bold"), (f" {_say_state(event.state)}", "")]
    elif isinstance(event, OutcomeEvent | LoadEvent):
        line = _say_second(event)
    elif isinstance(event, GapEvent):
        runs = ", ".join(f"{first}-{last}" for first, last in event.ranges)
        line = [*_at(event.at_ms), ("gap ", "bold magenta"), (f"{clean(event.source)} dropped {runs}: {event.reason}", "")]
    elif isinstance(event, DeadLetter):
        origin = f"{clean(event.topic)}/{event.partition}/{event.offset}"
        value = _quote(b64decode(event.value_base64))
        line = [*_at(event.at_ms), (origin, "bold"), (f" {clean(event.error)}: {event.value_bytes} bytes, {value}", "")]
    return [line] if line else []


def say_undecodable(topic: str, partition: int, offset: int, error: str, value: bytes | None) -> Line:
    """Say that a record is no event of its topic, and what it holds instead."""
    return [("undecodable ", "bold red"), (f"{topic}/{partition}/{offset}: {clean(error)}: {_quote(value or b'')}", "")]


def say_tombstone(key: bytes | None) -> Line:
    """Say that a compacted topic has forgotten a key."""
    return [(clean((key or b"").decode(errors="replace")), "bold"), (" forgotten", "dim")]


def clean(text: str) -> str:
    """Escape what does not print, and what could break the line or steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def format_time(at_ms: int) -> str:
    """Format an instant in UTC, with milliseconds; beyond the calendar as the bare number."""
    try:
        return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d}Z"
    except (ValueError, OverflowError, OSError):
        return f"{at_ms}ms"


def format_span(span_ms: int) -> str:
    """Format a span of time in its largest unit that leaves at least two, to three digits."""
    for unit, length_ms, below_ms in (
        ("ms", 1, 1_000),
        ("s", 1_000, 120_000),
        ("m", 60_000, 7_200_000),
        ("h", 3_600_000, 172_800_000),
    ):
        if span_ms < below_ms:
            return f"{span_ms / length_ms:.3g} {unit}"
    return f"{span_ms / 86_400_000:.3g} d"


def _say_decision(event: DecisionEvent) -> Line:
    line: Line = [
        *_at(event.decided_at_ms),
        (f"{event.outcome:5} ", _OUTCOME_STYLES[event.outcome]),
        (clean(event.user_id) or "''", "bold"),
        (f" {clean(event.action)}", ""),
    ]
    details = [f"policy {clean(event.policy)}", f"cost {event.cost}", f"{event.remaining} left"]
    if event.reason == "limit":
        details.insert(0, f"by {', '.join(map(clean, event.limits))}")
    elif event.reason != "ok":
        details.insert(0, event.reason)
    if event.ban_until_ms is not None:
        details.insert(0, f"until {format_time(event.ban_until_ms)}, verdict {clean(event.verdict_id or '?')}")
    if event.retry_after_ms:
        details.append(f"retry after {format_span(event.retry_after_ms)}")
    if event.factor < 1000:
        details.append(f"factor {event.factor / 1000:g}")
    if event.shadow_limits:
        details.append(f"shadow: would be refused by {', '.join(map(clean, event.shadow_limits))}")
    if event.suppressed:
        details.append(f"and {event.suppressed} before it at the client")
    details += [name for name in ("degraded", "cached") if getattr(event, name)]
    details += [f"{clean(key)}={clean(value)}" for key, value in event.attributes.items()]
    return [*line, (f" ({'; '.join(details)})", "dim")]


def _say_fold(fold: Fold) -> Line:
    details = f"by {clean(fold.policy)}:{clean(fold.limit)}, {fold.admitted} admitted since the last"
    if fold.users:
        details += f", {len(fold.users)} users"
    if fold.actions:
        details += f", {len(fold.actions)} actions"
    details += "".join(f", {clean(key)}={clean(value)}" for key, value in fold.attributes.items())
    return [
        *_at(fold.last_ms),
        (clean(fold.subject), "bold"),
        (f" {clean(fold.action)} denied {fold.count} times in {format_span(fold.last_ms - fold.first_ms)}", ""),
        (f" ({details})", "dim"),
    ]


def _say_verdict(event: VerdictEvent) -> Line:
    scope = ", ".join(map(clean, event.scope)) or "everything"
    what = {
        "none": "no penalty",
        "warn": "warned",
        "tighten": f"limits tightened to {event.factor / 1000:g}",
        "ban": f"banned from {scope}",
        "lift": "ban lifted",
        "forgive": "forgiven",
        "reset": "buckets reset",
        "override": _say_override(event.override),
        "reload": f"replaced by version {clean(event.rule_version)}, generation {event.rev}",
        "throttle": f"throttled to {event.factor / 1000:g}",
    }[event.penalty]
    if event.ban_until_ms is not None:
        what += f" until {format_time(event.ban_until_ms)} ({format_span(max(0, event.ban_until_ms - event.at_ms))})"
    why = f"by {clean(event.actor)}"
    if event.rule:
        why = f"rule {clean(event.rule)}"
        if event.rung:
            why += f", rung {event.rung}"
    if seen := event.evidence:
        why += f", {seen.count} denials in {format_span(seen.window_ms)} against a threshold of {seen.threshold}"
        why += f", {seen.admitted} admitted" if seen.admitted else ""
    if event.reason:
        why += f": {clean(event.reason)}"
    details = f"strikes {event.score_before / 1000:g} to {event.score_after / 1000:g}, verdict {clean(event.verdict_id)}"
    result = _RESULTS[event.result]
    return [
        *_at(event.at_ms),
        (clean(event.subject), "bold"),
        (f" {what}", "dim" if result else "bold red" if event.penalty == "ban" else "yellow"),
        (f" [{result}]" if result else "", "magenta"),
        (f", {why}", ""),
        (f" ({details})", "dim"),
    ]


def _say_override(override: Override | None) -> str:
    if override is None:
        return "limits overridden"
    limit = f"limit {clean(override.policy)}:{clean(override.limit)}"
    if not override.capacity:
        return f"{limit} as in the policies again"
    return f"{limit} holds {override.capacity}, refilled {clean(override.refill)}, until {format_time(override.until_ms)}"


def _say_state(state: AbuseState) -> str:
    parts = [
        f"banned from {', '.join(map(clean, ban.scope)) or 'everything'} until {format_time(ban.until_ms)}"
        f" ({f'rule {clean(ban.rule)}, rung {ban.level}' if ban.rule else 'by a person'}, verdict {clean(ban.verdict_id)})"
        for ban in state.bans
    ]
    if state.warn_until_ms:
        parts.append(f"warned until {format_time(state.warn_until_ms)} (rule {clean(state.warn_rule)})")
    if state.factor < 1000:
        parts.append(f"limits tightened to {state.factor / 1000:g} until {format_time(state.factor_until_ms)}")
    parts.append(f"strikes {state.score / 1000:g}, level {state.level}, {state.offences} offences, rev {state.rev}")
    return "; ".join(parts)


def _say_second(event: OutcomeEvent | LoadEvent) -> Line:
    line: Line = [*_at(event.second_ms), (clean(event.action), "bold")]
    if isinstance(event, LoadEvent):
        rate = event.refill_milli_per_s / 1000
        told = f" {event.admitted_tokens} tokens admitted; {event.active_subjects} active subjects, refill {rate:g}/s"
    else:
        told = f" {event.count} calls, {event.errors} errors, {event.timeouts} timeouts"
        if event.latencies:
            told += f", p90 {estimate_us(event.latencies, 0.9) / 1000:.3g} ms"
    return [*line, (told, ""), (f" ({clean(event.source)})", "dim")]


def _at(at_ms: int) -> Line:
    return [(f"{format_time(at_ms)} ", "dim")]


def _quote(value: bytes) -> str:
    text = clean(value[: LONGEST_VALUE_CHARS * 4].decode(errors="backslashreplace"))
    return f"{text[:LONGEST_VALUE_CHARS]}…" if len(text) > LONGEST_VALUE_CHARS else text
