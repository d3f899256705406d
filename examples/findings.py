"""What the scenario's observations say about Ratchet's promises: expected against seen. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from enforcer.client import Decision
from topics.events import DecisionEvent, SubjectEvent, VerdictEvent

LOGIN_CAPACITY, LOGIN_PER_IP = 5, 30
SEARCH_CAPACITY, SEARCH_PER_S = 50, 50
THRESHOLD = 10
RULE = "brute_force"
END_WITHIN_MS = 1_000

ALLOW, DENY, BAN = "allow", "deny", "ban"


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise: what was expected, what was seen, and whether they agree."""

    what: str
    expected: str
    seen: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class BanObserved:
    """An offence and the ban that each of the two enforcers then told.

    Attributes:
        answers: What each said once it said BAN, or when the wait was over.
        visible_ms: From the answer to the denial that crossed the threshold until each said so.
        seen_at_ms: When that was, on the observer's clock.
    """

    answers: tuple[Decision, Decision]
    visible_ms: tuple[float, float]
    seen_at_ms: int

    @property
    def until_ms(self) -> int:
        """When it ends, by the first enforcer; 0 where that told no ban."""
        return self.answers[0].ban.until_ms if self.answers[0].ban is not None else 0


@dataclass(slots=True)
class Events:
    """One run's events, as the topics have them."""

    decisions: list[DecisionEvent] = field(default_factory=list)
    verdicts: list[VerdictEvent] = field(default_factory=list)
    subjects: list[SubjectEvent] = field(default_factory=list)


def judge_logins(seen: Counter[str]) -> Finding:
    """Judge logins of one user that came at once: a burst passes, and nothing is refilled in so short a time."""
    is_met = seen[ALLOW] == LOGIN_CAPACITY and seen[BAN] == 0
    what = f"{seen.total()} logins of one user at once, both enforcers"
    return Finding(what, f"exactly {LOGIN_CAPACITY} admitted", f"{seen[ALLOW]} admitted", is_met)


def judge_searches(admitted: int, degraded: int, *, least_s: float, most_s: float) -> Finding:
    """Judge searches of one user that never paused.

    Args:
        admitted: How many passed.
        degraded: How many were decided without Redis, each enforcer by its share of the limit.
        least_s: The bucket was under load for at least so long.
        most_s: And for at most so long.
    """
    least = SEARCH_CAPACITY + SEARCH_PER_S * least_s - 1
    most = SEARCH_CAPACITY + SEARCH_PER_S * most_s
    expected = f"{least:.1f} to {most:.1f} admitted (50 + 50/s, less one at most)"
    seen = f"{admitted} admitted" + (f", {degraded} decided without Redis" if degraded else "")
    return Finding(f"searches of one user for {most_s:.0f} s, both enforcers", expected, seen, least <= admitted <= most)


def judge_office(seen: Counter[str], people: int) -> Finding:
    """Judge many users behind one address: the address is limited, nobody is banned."""
    is_met = seen[ALLOW] >= LOGIN_PER_IP and seen[DENY] > 0 and seen[BAN] == 0
    what = f"office: {seen.total()} logins of {people} users behind one address"
    return Finding(what, f"about {LOGIN_PER_IP} admitted, none banned", f"{seen[ALLOW]} admitted, {seen[BAN]} banned", is_met)


def judge_person(seen: Counter[str]) -> Finding:
    """Judge those who stay within every limit."""
    what = "a person and a scraper in the midst of it"
    return Finding(what, f"{seen.total()} requests, all served", f"{seen[ALLOW]} served", seen[ALLOW] == seen.total())


def judge_bystanders(seen: Counter[str]) -> Finding:
    """Judge all those whom no rule is about: they meet limits, and no bans."""
    text = f"{seen.total()} requests: {seen[ALLOW]} admitted, {seen[DENY]} denied, {seen[BAN]} banned"
    return Finding("office, job, stuffer, person", "limited, none banned", text, seen[BAN] == 0 and seen[DENY] > 0)


def judge_ban(ban: BanObserved) -> list[Finding]:
    """Judge the first ban: both enforcers tell it, with the same end and rule."""
    one, other = ban.answers
    told = f"{name_outcome(one)} and {name_outcome(other)}, after {ban.visible_ms[0]:.0f} and {ban.visible_ms[1]:.0f} ms"
    is_same, seen = False, "no ban"
    if one.ban is not None and other.ban is not None:
        is_same = one.ban.until_ms == other.ban.until_ms and one.ban.rule == other.ban.rule == RULE
        seen = f"ends in {(ban.until_ms - ban.seen_at_ms) / 1000:.1f} s by {one.ban.rule}"
    is_banned = one.outcome == other.outcome == BAN
    return [
        Finding(f"user after {THRESHOLD} login denials, on each enforcer", "BAN and BAN", told, is_banned),
        Finding("both tell the same end and rule", f"one end, {RULE}", seen, is_same),
    ]


def judge_scope(answer: Decision) -> Finding:
    """Judge what a banned user asks for outside the ban's scope."""
    return Finding("the banned user's search, outside the ban's scope", "ALLOW", name_outcome(answer), answer.outcome == ALLOW)


def judge_end(late_ms: Sequence[float]) -> Finding:
    """Judge when the ban was over on each enforcer, against the end that it was told with."""
    seen = " and ".join(f"{late:+.0f} ms" for late in late_ms)
    is_met = all(abs(late) < END_WITHIN_MS for late in late_ms)
    return Finding("the ban ends when it said", f"within {END_WITHIN_MS / 1000:g} s of it", seen, is_met)


def judge_second(first: BanObserved, second: BanObserved) -> Finding:
    """Judge the ban of a second offence against that of the first."""
    one, other = (ban.answers[0].ban for ban in (first, second))
    if one is None or other is None:
        return Finding("second offence", "a higher rung", "no ban", is_met=False)
    is_harder = other.level > one.level and second.until_ms > first.until_ms
    seen = f"rung {other.level} after rung {one.level}"
    return Finding("second offence", "a higher rung", seen, is_harder)


def judge_events(events: Events, *, subject: str, sent: int, balanced_user: str) -> list[Finding]:
    """Judge what the topics hold of one run.

    Args:
        events: What was read.
        subject: The only one to be banned, twice.
        sent: How many checks were made.
        balanced_user: The user whose checks all went through Envoy.
    """
    bans = sorted((one for one in events.verdicts if _is_ban(one)), key=lambda one: one.at_ms)
    lengths_s = [((one.ban_until_ms or 0) - one.at_ms) / 1000 for one in bans]
    is_longer = len(lengths_s) == 2 and lengths_s[1] > lengths_s[0] > 0
    seen_lengths = ", ".join(f"{length:.1f} s" for length in lengths_s)
    banned = {one.subject for one in bans}
    revisions = [one.state.rev for one in events.subjects if one.subject == subject]
    rises = len(revisions) >= 2 and all(one < other for one, other in pairwise(revisions))
    by = Counter(one.source.partition("/")[0] for one in events.decisions)
    split = ", ".join(f"{name} {number:,}" for name, number in sorted(by.items()))
    balanced = {one.source for one in events.decisions if one.user_id == balanced_user}
    found = len(events.decisions)
    return [
        Finding("bans in topic verdicts", "2, the second longer", f"{len(bans)}: {seen_lengths or 'none'}", is_longer),
        Finding("who was banned", "the attacked user alone", ", ".join(sorted(banned)) or "nobody", banned == {subject}),
        Finding("states in topic subjects", "rising revisions", f"{len(revisions)} states", rises),
        Finding("decisions in the topic", f"{sent:,}", f"{found:,} ({split})", found == sent),
        Finding("Envoy spreads the load", "2 enforcers", f"{len(balanced)} enforcers", len(balanced) == 2),
    ]


def name_outcome(answer: Decision) -> str:
    """Name an outcome as people read it: ``BAN``."""
    return answer.outcome.upper()


def _is_ban(verdict: VerdictEvent) -> bool:
    return verdict.penalty == "ban" and verdict.result == "applied"
