"""What an offence leads to: the executable specification of ``lua/apply_verdict.lua``. Pure.

Everything but ``result`` and ``applied_at_ms`` of the :class:`Finding` follows from event times and the state before, so the
same offences in the same order end in the same state, whether they are judged live or replayed years later.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from detector.rules import Ladder
from topics.abuse import add_ban, covers, decay_score
from topics.events import AbuseState, Ban, Penalty, VerdictResult

STRIKE = 1000
"""One strike, in the unit that scores are kept in."""


@dataclass(frozen=True, slots=True)
class Offence:
    """One rule, crossed once by one subject.

    Attributes:
        verdict_id: Names the offence; the same offence has the same id whenever it is found.
        subject: ``kind=value``.
        rule: Name of the rule.
        scope: Globs of the actions that a ban refuses.
        at_ms: Event time of the crossing.
        start: Number of the rule's first rung, from 1.
        is_shadow: Only to be written down.
    """

    verdict_id: str
    subject: str
    rule: str
    scope: tuple[str, ...]
    at_ms: int
    start: int
    is_shadow: bool


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an offence; what the script stores under the verdict's key, in this order of fields.

    Where nothing changed, ``penalty`` is ``none`` and ``rung``, ``until_ms`` and ``rev`` are 0; in shadow mode ``penalty``,
    ``rung`` and ``until_ms`` say what would have been.
    """

    result: VerdictResult
    penalty: Penalty = "none"
    rung: int = 0
    level: int = 0
    score_before: int = 0
    score_after: int = 0
    until_ms: int = 0
    factor: int = 1000
    rev: int = 0
    applied_at_ms: int = 0
    """On Redis's clock."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A finding and what it leaves in Redis.

    Attributes:
        finding: What came of the offence.
        state: The subject's state afterwards; None when there is none.
        expires_at_ms: When Redis forgets the state; None when the offence did not write it.
    """

    finding: Finding
    state: AbuseState | None
    expires_at_ms: int | None


def choose_rung(start: int, score: int, rungs: int) -> int:
    """Choose the rung for an offence: the rule's first one, and one more per strike held, rounded to the nearest.

    Rounding is what lets one strike count in full until its half-life is over, although it decays from its first second.

    Args:
        start: The rule's first rung, from 1.
        score: Strikes held before the offence, in 1/1000.
        rungs: Rungs of the ladder; the last one repeats.
    """
    return min(start + (score + STRIKE // 2) // STRIKE, rungs)


def measure_jitter_ms(verdict_id: str, duration_ms: int, jitter: int) -> int:
    """By how much a ban ends sooner: the same for the same verdict, spread evenly over verdicts.

    Args:
        verdict_id: Begins with 4 hexadecimal digits, which are the chance.
        duration_ms: Of the rung.
        jitter: Most, per mille of the duration.
    """
    return duration_ms * jitter // 1000 * int(verdict_id[:4], 16) // 65536 if jitter else 0


def judge_exempt(offence: Offence) -> Finding:
    """Say what comes of an offence of a subject on the allowlist: nothing, and its state is not looked at."""
    return Finding(result="exempt", applied_at_ms=offence.at_ms)


def judge(state: AbuseState | None, offence: Offence, ladder: Ladder, *, now_ms: int, keep_ms: int) -> Judgement:
    """Decide what a first sight of an offence leads to. A repeat is answered from what was stored, and never comes here.

    Args:
        state: What is held against the subject.
        offence: What it did.
        ladder: What follows.
        now_ms: Redis time. It tells what is stale or already over, and is never written into the state.
        keep_ms: How long results are kept, at least the retention of ``denials`` plus the longest ban. An offence that is
            older is refused, because a repeat of it could no longer be told from a first sight.
    """
    if offence.at_ms + keep_ms <= now_ms:
        return Judgement(Finding(result="stale", applied_at_ms=now_ms), state, None)
    held = state or AbuseState(rev=1)
    before = decay_score(held.score, offence.at_ms - held.score_at_ms, ladder.half_life_ms)

    def change_nothing(result: VerdictResult) -> Judgement:
        unchanged = Finding(result=result, level=held.level, score_before=before, score_after=before, applied_at_ms=now_ms)
        return Judgement(unchanged, state, None)

    if offence.at_ms < held.human_at_ms:
        return change_nothing("overruled")
    if any(ban.until_ms > offence.at_ms and covers(ban.scope, offence.scope) for ban in held.bans):
        return change_nothing("during_ban")

    number = choose_rung(offence.start, before, len(ladder.rungs))
    rung = ladder.rungs[number - 1]
    until_ms = offence.at_ms + rung.duration_ms
    if rung.penalty == "ban":
        until_ms -= measure_jitter_ms(offence.verdict_id, rung.duration_ms, ladder.jitter)
    # A shorter ladder does not take back what a longer one has counted.
    after = max(before, min(before + STRIKE, len(ladder.rungs) * STRIKE))
    if offence.is_shadow:
        shadow = Finding(
            result="shadow",
            penalty=rung.penalty,
            rung=number,
            level=held.level,
            score_before=before,
            score_after=before,
            until_ms=until_ms,
            factor=rung.factor or 1000,
            applied_at_ms=now_ms,
        )
        return Judgement(shadow, state, None)

    changes: dict[str, object] = {
        # A state that expired and came back must not count from 1 again: readers keep the highest.
        "rev": state.rev + 1 if state else offence.at_ms,
        "score": after,
        "score_at_ms": max(held.score_at_ms, until_ms if rung.penalty == "ban" else offence.at_ms),
        "half_life_ms": ladder.half_life_ms,
        "level": max(number, held.level if before else 0),
        "offences": held.offences + 1,
        "bans": tuple(ban for ban in held.bans if ban.until_ms > offence.at_ms),
    }
    if rung.penalty == "warn":
        changes |= {"warn_until_ms": until_ms, "warn_rule": offence.rule, "warn_verdict": offence.verdict_id}
    elif rung.penalty == "tighten":
        is_active = held.factor_until_ms > offence.at_ms
        changes |= {
            "factor": min(rung.factor or 1000, held.factor if is_active else 1000),
            "factor_until_ms": max(until_ms, held.factor_until_ms),
            "factor_verdict": offence.verdict_id,
        }
    else:
        ban = Ban(until_ms=until_ms, level=number, rule=offence.rule, verdict_id=offence.verdict_id, scope=offence.scope)
        changes["bans"] = add_ban(held.bans, ban, at_ms=offence.at_ms)
    new = held.model_copy(update=changes)
    finding = Finding(
        result="already_over" if until_ms <= now_ms else "applied",
        penalty=rung.penalty,
        rung=number,
        level=new.level,
        score_before=before,
        score_after=after,
        until_ms=until_ms,
        factor=new.factor if rung.penalty == "tighten" else 1000,
        rev=new.rev,
        applied_at_ms=now_ms,
    )
    return Judgement(finding, new, find_expiry_ms(new) + keep_ms)


def find_expiry_ms(state: AbuseState) -> int:
    """From when nothing is held against the subject. Replays come up to ``keep_ms`` later and must still find the state."""
    forgotten_ms = state.score_at_ms + state.score.bit_length() * state.half_life_ms
    ends = [ban.until_ms for ban in state.bans]
    return max(forgotten_ms, state.human_at_ms, state.factor_until_ms, state.warn_until_ms, *ends)
