"""What a person decides about a subject: the executable specification of ``lua/apply_ruling.lua``. Pure.

A ruling outranks the detector: verdicts about offences of before it change nothing. It is no strike, and leaves the score alone
but to forgive it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import msgspec

from topics.abuse import add_ban, decay_score
from topics.events import AbuseState, Ban, VerdictEvent
from topics.specs import DAY_MS, DENIALS

RulingPenalty = Literal["ban", "lift", "forgive"]

KEEP_MS = DENIALS.retention_ms + DAY_MS
"""How long a ruling is remembered: while a verdict about an offence of before it can come, and its caller may repeat it."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """One decision of one person about one subject.

    Attributes:
        verdict_id: Names it; a repeat has the same.
        digest: Of all that was asked for; tells a repeat from another ruling under the same id.
        subject: ``kind=value``.
        penalty: What is to happen.
        actor: Who decided.
        reason: Why.
        scope: Of a ban: globs of the actions that it refuses.
        duration_ms: Of a ban.
    """

    verdict_id: str
    digest: str
    subject: str
    penalty: RulingPenalty
    actor: str
    reason: str
    scope: tuple[str, ...] = ()
    duration_ms: int = 0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a ruling; what the script stores under the verdict's key, in this order of fields."""

    digest: str
    at_ms: int
    """When it was decided, on Redis's clock."""
    until_ms: int
    """End of the ban that was imposed; else 0."""
    rev: int
    level: int
    score: int
    """Before the ruling, with ``score_at_ms`` and ``half_life_ms`` as in :class:`AbuseState`."""
    score_at_ms: int
    half_life_ms: int


def identify_change(request_id: str, actor: str, subject: str) -> str:
    """Name a change: the same request of the same person has the same name whenever it comes.

    Returns:
        32 hexadecimal digits.
    """
    return digest_texts(request_id, actor, subject)


def digest_texts(*texts: str) -> str:
    """Hash texts, each told apart from its neighbours, to 32 hexadecimal digits."""
    sized = "".join(f"{len(text)}:{text}" for text in texts)
    return hashlib.blake2b(sized.encode(), digest_size=16).hexdigest()


def rule(state: AbuseState | None, ruling: Ruling, *, now_ms: int) -> tuple[Finding, AbuseState]:
    """Decide what a first sight of a ruling leads to. A repeat is answered from what was stored, and never comes here.

    Args:
        state: What is held against the subject.
        ruling: What the person decided.
        now_ms: Redis time.
    """
    held = state or AbuseState(rev=1)
    changes: dict[str, object] = {
        "rev": state.rev + 1 if state else now_ms,
        "human_at_ms": max(held.human_at_ms, now_ms),
    }
    until_ms = 0
    if ruling.penalty == "ban":
        until_ms = now_ms + ruling.duration_ms
        ban = Ban(until_ms=until_ms, level=0, rule="", verdict_id=ruling.verdict_id, scope=ruling.scope)
        changes["bans"] = add_ban(held.bans, ban, at_ms=now_ms)
    elif ruling.penalty == "lift":
        # A score decays from the end of the last ban, and that is now.
        changes |= {"bans": (), "score_at_ms": min(held.score_at_ms, now_ms)}
    else:
        changes |= {"score": 0, "level": 0, "factor": 1000, "factor_until_ms": 0, "factor_verdict": ""}
        changes |= {"warn_until_ms": 0, "warn_rule": "", "warn_verdict": ""}
    new = held.model_copy(update=changes)
    finding = Finding(
        digest=ruling.digest,
        at_ms=now_ms,
        until_ms=until_ms,
        rev=new.rev,
        level=new.level,
        score=held.score,
        score_at_ms=held.score_at_ms,
        half_life_ms=held.half_life_ms,
    )
    return finding, new


def find_expiry_ms(expires_at_ms: int, state: AbuseState, finding: Finding) -> int:
    """When Redis forgets the state: never sooner than it would have, for verdicts may still count on it.

    Args:
        expires_at_ms: When it would have forgotten the state of before; below 0 when there was none.
        state: After the ruling.
        finding: What came of it.
    """
    return max(expires_at_ms, state.human_at_ms + KEEP_MS, finding.until_ms + KEEP_MS)


def make_ruling_event(ruling: Ruling, finding: Finding) -> VerdictEvent:
    """Write the audit's entry. A repeat gives the same bytes."""
    before = decay_score(finding.score, finding.at_ms - finding.score_at_ms, finding.half_life_ms)
    return VerdictEvent(
        verdict_id=ruling.verdict_id,
        subject=ruling.subject,
        penalty=ruling.penalty,
        result="applied",
        at_ms=finding.at_ms,
        applied_at_ms=finding.at_ms,
        rev=finding.rev,
        score_before=before,
        score_after=0 if ruling.penalty == "forgive" else before,
        level=finding.level,
        scope=ruling.scope,
        ban_until_ms=finding.until_ms or None,
        actor=ruling.actor,
        reason=ruling.reason,
    )
