"""From a crossing to an offence with a name of its own, and from its finding to the events that tell of it. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from detector.durations import format_duration
from detector.ladder import Finding, Offence
from detector.rules import Rule, Rules
from detector.windows import Crossing
from topics.events import Evidence, VerdictEvent


@dataclass(frozen=True, slots=True)
class Origin:
    """The record of topic ``denials`` that crossed a rule.

    Attributes:
        partition: Where it lies.
        offset: Where it lies.
        source: Who wrote it.
        n: Number among the records of its source in this partition.
    """

    partition: int
    offset: int
    source: str
    n: int


def identify_verdict(crossing: Crossing, origin: Origin, *, version: str, start: int) -> str:
    """Name a verdict: the same crossing has the same name in every run over the same records.

    The record is named by its source and number, not by its offset, which would differ in a copy of the topic.

    Args:
        crossing: What happened.
        origin: In which record.
        version: Of the rules.
        start: The rule's first rung.

    Returns:
        32 hexadecimal digits.
    """
    parts = (crossing.subject, crossing.watch.rule.name, version, str(start), origin.source, str(origin.n), str(crossing.fold))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def make_offence(crossing: Crossing, origin: Origin, rules: Rules) -> Offence:
    """Say what the crossing of a rule is, before anything follows from it."""
    watch = crossing.watch
    rule = watch.rule
    return Offence(
        verdict_id=identify_verdict(crossing, origin, version=rules.digest, start=watch.start),
        subject=crossing.subject,
        rule=rule.name,
        scope=rule.ban_scope,
        at_ms=crossing.last_ms,
        start=watch.start,
        is_shadow=rule.mode == "shadow" or not is_chosen(crossing.subject, rule),
    )


def is_chosen(subject: str, rule: Rule) -> bool:
    """Whether the subject is among the percent for whom the rule is enforced; who is at 10 is at 20 too."""
    hashed = hashlib.blake2b(f"{rule.name}\n{subject}".encode(), digest_size=8).digest()
    return int.from_bytes(hashed) % 100 < rule.percent


def describe(crossing: Crossing) -> str:
    """Fill in the rule's description."""
    watch = crossing.watch
    rule = watch.rule
    return rule.description.format(
        subject=crossing.subject,
        count=crossing.count,
        counts=rule.counts,
        threshold=watch.threshold,
        window=format_duration(rule.window_ms),
        actions=", ".join(rule.match.action),
        rule=rule.name,
    )


def make_event(crossing: Crossing, origin: Origin, offence: Offence, finding: Finding, rules: Rules) -> VerdictEvent:
    """Write the audit's entry. A repeat of an offence gives the same bytes, but for the offset of a record written twice."""
    watch = crossing.watch
    rule = watch.rule
    return VerdictEvent(
        verdict_id=offence.verdict_id,
        subject=offence.subject,
        penalty=finding.penalty,
        result=finding.result,
        rule=rule.name,
        rule_version=rules.digest,
        rung=finding.rung,
        at_ms=offence.at_ms,
        applied_at_ms=finding.applied_at_ms,
        rev=finding.rev,
        score_before=finding.score_before,
        score_after=finding.score_after,
        level=finding.level,
        scope=offence.scope,
        ban_until_ms=finding.until_ms if finding.penalty == "ban" else None,
        factor=finding.factor,
        severity=rule.severity,
        reason=describe(crossing),
        evidence=Evidence(
            count=crossing.count,
            counts=rule.counts,
            denials=crossing.denials,
            admitted=crossing.admitted,
            threshold=watch.threshold,
            window_ms=rule.window_ms,
            first_ms=crossing.first_ms,
            last_ms=crossing.last_ms,
            partition=origin.partition,
            offset=origin.offset,
            source=origin.source,
            n=origin.n,
        ),
    )
