"""Run rules over history, by the very code that runs them live, and say what they would have done. Pure.

Windows, offences and ladder are functions of event time, so the same records lead to the same verdicts. What history cannot
tell: refusals that a candidate's bans would have prevented are in it, and those that real bans prevented are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from detector.ladder import judge
from detector.rules import Rule, Rules, matches_glob
from detector.shard import Shard, Weighing
from detector.verdict import make_event, make_offence
from topics.events import AbuseState, VerdictEvent
from topics.recorded import Recorded
from topics.wire import DenialRecord, Fold

MOST_SUBJECTS = 400_000
"""Subjects with windows, over all partitions as many as eight live ones have."""
MOST_PROFILES = 200_000
"""Subjects whose passed and refused checks are added up; those that come later are not doubted."""
MOST_DOUBTED = 10
MOST_USERS = 64
"""Distinct users behind one subject that are told apart."""
DRAIN_EVERY = 1_000
SAME_WITHIN_MS = 1_000
"""An offence of the same subject by the same rule within a second of the live one is the same: folds of two sources may have
come in another order."""
_KEEP_MS = 2**53
"""History is never stale."""


class RuleReport(msgspec.Struct):
    """What one rule would have done."""

    offences: int = 0
    penalties: Counter[str] = msgspec.field(default_factory=Counter)
    """Of the offences that changed something, by penalty."""
    results: Counter[str] = msgspec.field(default_factory=Counter)
    """Of the others: ``during_ban``, ``shadow``, ``exempt``."""
    banned_subjects: int = 0
    denials: int = 0
    """Refusals that it counted."""
    checks: int = 0
    """Decisions of its actions in the history; 0 where the history has refusals alone."""
    censored: int = 0
    """Of these, refused by a ban that was in force: what would have become of them nobody knows."""

    @property
    def censored_share(self) -> float:
        """Share of the history that bans had censored."""
        return self.censored / self.checks if self.checks else 0.0


class Doubt(msgspec.Struct):
    """A banned subject that may be innocent."""

    subject: str
    rules: tuple[str, ...]
    bans: int
    denials: int
    admitted: int
    """Checks that passed, from its first refusal to its last."""
    users: int
    """Distinct users behind it, at most 64; 1 for a user."""

    @property
    def admitted_share(self) -> float:
        """Share of its checks that passed."""
        return self.admitted / (self.admitted + self.denials)

    @property
    def weight(self) -> float:
        """How doubtful: an attacker is refused nearly always, and alone. Half of all passed weighs as much as two users."""
        return max(self.admitted_share, 1 - 1 / max(1, self.users))


class Difference(msgspec.Struct):
    """Bans of the candidate against those that were imposed."""

    versions: Counter[str] = msgspec.field(default_factory=Counter)
    """Bans that were imposed, by the version of the rules."""
    same_ids: int = 0
    same: int = 0
    """The same subject by the same rule at the same time, with the same id or not."""
    only_candidate: list[VerdictEvent] = msgspec.field(default_factory=list)
    only_live: list[VerdictEvent] = msgspec.field(default_factory=list)


class _Profile:
    """What one subject did in all of the history."""

    __slots__ = ("admitted", "denials", "users")

    def __init__(self) -> None:
        self.denials = 0
        self.admitted = 0
        self.users: set[int] = set()

    def add(self, fold: Fold) -> None:
        self.denials += fold.count
        self.admitted += fold.admitted
        if len(self.users) < MOST_USERS:
            self.users.update(fold.users)


class Backtest:
    """Judges records of topic ``denials``, read or folded again, in event time."""

    def __init__(self, rules: Rules, *, first_ms: int = 0) -> None:
        """Begin with nothing held against anybody.

        Args:
            rules: The candidate.
            first_ms: What was before fills the windows and is not reported.
        """
        self._rules = rules
        self._first_ms = first_ms
        self._shards: dict[int, Shard] = {}
        self._states: dict[str, AbuseState] = {}
        self._profiles: dict[str, _Profile] = {}
        self._checks: Counter[tuple[str, str, bool]] = Counter()
        self._fed = 0
        self.verdicts: list[VerdictEvent] = []
        """All that was found, in order."""
        self.rules = {rule.name: RuleReport() for rule in rules.rules}

    @property
    def version(self) -> str:
        """Of the rules."""
        return self._rules.digest

    @property
    def evicted(self) -> int:
        """Subjects forgotten for want of room."""
        return sum(shard.evicted for shard in self._shards.values())

    def feed(self, partition: int, offset: int, record: DenialRecord, *, taken_ms: int) -> None:
        """Take one record of topic ``denials``; those of one partition in the order of offsets.

        Args:
            partition: Where it lies.
            offset: Where it lies; its like is not needed again.
            record: What it says.
            taken_ms: When the broker took it.
        """
        shard = self._shards.get(partition)
        if shard is None:
            shard = self._shards[partition] = Shard(partition, self._rules, {}, None, most=MOST_SUBJECTS)
        weighing = shard.weigh(offset, record, taken_ms=taken_ms)
        if weighing.kind == "folds":
            self._add_profiles(record.folds)  # type: ignore[union-attr] # the kind says what it is
            for rule, count in weighing.denials.items():
                self.rules[rule].denials += count
            if weighing.crossings:
                self._punish(weighing)
        shard.accept(weighing)
        self._fed += 1
        if self._fed % DRAIN_EVERY == 0:
            shard.drain()

    def count(self, record: Recorded) -> None:
        """Count one decision into the share that bans had censored."""
        self._checks[record.action, record.policy, record.outcome == "ban"] += 1

    def finish(self) -> None:
        """Sum up. Call once, after everything is fed."""
        for rule in self._rules.rules:
            report = self.rules[rule.name]
            for (action, policy, is_banned), count in self._checks.items():
                if matches_glob(rule.match.action, action) and matches_glob(rule.match.policy, policy):
                    report.checks += count
                    report.censored += count if is_banned else 0
            report.banned_subjects = len({verdict.subject for verdict in self.bans if verdict.rule == rule.name})

    @property
    def bans(self) -> list[VerdictEvent]:
        """The verdicts that ban."""
        return [verdict for verdict in self.verdicts if is_ban(verdict)]

    def list_doubts(self) -> list[Doubt]:
        """The banned subjects that are most likely to be innocent, worst first."""
        by_subject: dict[str, list[VerdictEvent]] = {}
        for verdict in self.bans:
            by_subject.setdefault(verdict.subject, []).append(verdict)
        doubts = [
            Doubt(
                subject,
                tuple(sorted({verdict.rule for verdict in verdicts})),
                len(verdicts),
                profile.denials,
                profile.admitted,
                max(1, len(profile.users)),
            )
            for subject, verdicts in by_subject.items()
            if (profile := self._profiles.get(subject)) is not None
        ]
        return sorted(doubts, key=lambda doubt: (-doubt.weight, doubt.subject))[:MOST_DOUBTED]

    def compare(self, live: Iterable[VerdictEvent]) -> Difference:
        """Compare with what was imposed in the same time.

        Args:
            live: Of topic ``verdicts``; one that stands there twice counts once.
        """
        imposed = {verdict.verdict_id: verdict for verdict in live if is_ban(verdict) and verdict.at_ms >= self._first_ms}
        difference = Difference(versions=Counter(verdict.rule_version for verdict in imposed.values()))
        found = {verdict.verdict_id: verdict for verdict in self.bans}
        difference.same_ids = difference.same = len(found.keys() & imposed.keys())
        rest = [verdict for name, verdict in imposed.items() if name not in found]
        for name, verdict in found.items():
            if name in imposed:
                continue
            twin = _find_twin(verdict, rest)
            if twin is None:
                difference.only_candidate.append(verdict)
            else:
                rest.remove(twin)
                difference.same += 1
        difference.only_live = rest
        return difference

    def _add_profiles(self, folds: Sequence[Fold]) -> None:
        profiles = self._profiles
        for fold in folds:
            profile = profiles.get(fold.subject)
            if profile is None:
                if len(profiles) >= MOST_PROFILES:
                    continue
                profile = profiles[fold.subject] = _Profile()
            profile.add(fold)

    def _punish(self, weighing: Weighing) -> None:
        assert weighing.origin is not None  # noqa: S101 crossings come with it
        rules = self._rules
        for crossing in weighing.crossings:
            offence = make_offence(crossing, weighing.origin, rules)
            rule: Rule = crossing.watch.rule
            judgement = judge(
                self._states.get(offence.subject), offence, rules.find_ladder(rule), now_ms=offence.at_ms, keep_ms=_KEEP_MS
            )
            if judgement.state is not None:
                self._states[offence.subject] = judgement.state
            if offence.at_ms < self._first_ms:
                continue
            verdict = make_event(crossing, weighing.origin, offence, judgement.finding, rules)
            self.verdicts.append(verdict)
            report = self.rules[rule.name]
            report.offences += 1
            if verdict.result == "applied":
                report.penalties[verdict.penalty] += 1
            else:
                report.results[verdict.result] += 1


def is_ban(verdict: VerdictEvent) -> bool:
    """Whether a verdict banned, by a rule and for real."""
    return verdict.penalty == "ban" and verdict.result in {"applied", "already_over"} and bool(verdict.rule)


def _find_twin(verdict: VerdictEvent, among: Sequence[VerdictEvent]) -> VerdictEvent | None:
    return next(
        (
            other
            for other in among
            if (other.subject, other.rule) == (verdict.subject, verdict.rule)
            and abs(other.at_ms - verdict.at_ms) <= SAME_WITHIN_MS
        ),
        None,
    )
