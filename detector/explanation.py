"""Why a verdict came about: counts against threshold, the folded records behind them, the score before and after. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from topics.events import VerdictEvent
from topics.wire import Fold

STRIKE = 1000


class Proof(msgspec.Struct, frozen=True):
    """One fold of one record of topic ``denials``."""

    offset: int
    action: str
    policy: str
    limit: str
    count: int
    admitted: int
    first_ms: int
    last_ms: int


class Explanation(msgspec.Struct, frozen=True):
    """A verdict and what it rests on."""

    verdict_id: str
    subject: str
    rule: str
    rule_version: str
    result: str
    penalty: str
    reason: str
    counted: int
    counts: str
    threshold: int
    window_ms: int
    partition: int
    proofs: tuple[Proof, ...]
    """The subject's folds in the window, up to the record that crossed; also those that the rule does not count."""
    score_before: int
    score_after: int
    rung: int
    is_complete: bool
    """False when retention has taken records that the verdict rests on."""
    one_event_earlier: int | None
    """Denials in the window without the record that crossed; None where they are not known, or others are counted."""


def list_proofs(verdict: VerdictEvent, offset: int, folds: Sequence[Fold]) -> Iterator[Proof]:
    """Give the folds of one record that are about the verdict's subject and fall into its window."""
    evidence = verdict.evidence
    if evidence is None:
        return
    for fold in folds:
        if fold.subject == verdict.subject and fold.last_ms >= evidence.first_ms and fold.first_ms <= evidence.last_ms:
            yield Proof(offset, fold.action, fold.policy, fold.limit, fold.count, fold.admitted, fold.first_ms, fold.last_ms)


def explain(verdict: VerdictEvent, proofs: Sequence[Proof]) -> Explanation:
    """Put a verdict of a rule and its proofs together.

    Args:
        verdict: Has evidence: a rule found it, no person.
        proofs: In the order of offsets.
    """
    evidence = verdict.evidence
    if evidence is None:
        raise ValueError(f"verdict {verdict.verdict_id} was imposed by {verdict.actor}: {verdict.reason}; no rule counted")
    crossing = sum(proof.count for proof in proofs if proof.offset == evidence.offset)
    earlier = evidence.count - crossing if evidence.counts == "denials" and crossing else None
    return Explanation(
        verdict_id=verdict.verdict_id,
        subject=verdict.subject,
        rule=verdict.rule,
        rule_version=verdict.rule_version,
        result=verdict.result,
        penalty=verdict.penalty,
        reason=verdict.reason,
        counted=evidence.count,
        counts=evidence.counts,
        threshold=evidence.threshold,
        window_ms=evidence.window_ms,
        partition=evidence.partition,
        proofs=tuple(proofs),
        score_before=verdict.score_before,
        score_after=verdict.score_after,
        rung=verdict.rung,
        is_complete=sum(proof.count for proof in proofs) >= evidence.denials and crossing > 0,
        one_event_earlier=None if earlier is None else max(0, earlier),
    )


def say_explanation(found: Explanation) -> Iterator[str]:
    """Write it for people, line by line."""
    yield f"verdict {found.verdict_id}: {found.result}, {found.penalty} of {found.subject}"
    yield f"rule {found.rule}, version {found.rule_version}: {found.reason}"
    yield f"counted {found.counted} {found.counts} within {found.window_ms / 1000:g} s; the threshold is {found.threshold}"
    for proof in found.proofs:
        yield (
            f"  denials/{found.partition}/{proof.offset} {_say(proof.first_ms)} {proof.action} {proof.policy}:{proof.limit}"
            f" {proof.count} refused, {proof.admitted} passed since the fold before"
        )
    if not found.is_complete:
        yield "  retention has taken records that it rests on; the counts above are those that the verdict recorded"
    before, after = found.score_before / STRIKE, found.score_after / STRIKE
    yield f"score: {before:.3f} strikes were left, {after:.3f} afterwards; rung {found.rung or 'none'}"
    if found.one_event_earlier is not None:
        short = found.threshold - found.one_event_earlier
        yield (
            f"one record earlier: {found.one_event_earlier} of {found.threshold}, "
            + (f"{short} short: no offence" if short > 0 else "an offence already")
            + f"; the score would have stayed at {before:.3f}"
        )


def _say(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")
