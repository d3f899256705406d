"""Try rules on their fixtures: the very code that runs live, in event time. Pure.

A rule is pinned when its fixtures tell it from itself with any threshold one lower or one higher: otherwise nobody would
notice that a threshold was mistyped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detector.allowlist import Allowlist
from detector.durations import format_duration
from detector.fixtures import START_MS, Fixture, Fixtures
from detector.ladder import Finding, Offence, judge, judge_exempt
from detector.rules import Rule, Rules
from detector.shard import Shard
from detector.verdict import make_offence
from topics.events import AbuseState
from topics.specs import DENIALS
from topics.wire import Fold, FoldsEvent

_SOURCE = "fixture/0/0"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came, or has to come, of the events.

    Attributes:
        at_ms: Since the fixture's start.
        rule: Name of the rule.
        subject: ``kind=value``.
        result: As in topic ``verdicts``.
        rung: Name of the rung; empty where nothing changes.
    """

    at_ms: int
    rule: str
    subject: str
    result: str
    rung: str

    def __str__(self) -> str:
        at = format_duration(self.at_ms) if self.at_ms else "0s"
        return " ".join(filter(None, (at, self.rule, self.subject, self.result, self.rung)))


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one file of fixtures.

    Attributes:
        name: Of the file.
        fixtures: How many it has.
        problems: What is not as it has to be, one line each.
    """

    name: str
    fixtures: int
    problems: tuple[str, ...]


def try_rules(rules: Rules, files: Sequence[tuple[str, Fixtures]]) -> tuple[list[Trial], list[str]]:
    """Try all fixtures, and each rule's thresholds.

    Args:
        rules: What is tried.
        files: Names and content of the files of fixtures; a rule may have several.

    Returns:
        What became of each file, and what is wrong with rules as a whole, one line each.
    """
    trials = [Trial(name, len(file.fixtures), tuple(_find_differences(rules, file))) for name, file in files]
    failed = {file.rule for (_, file), trial in zip(files, trials, strict=True) if trial.problems}
    problems = []
    for rule in rules.rules:
        mine = [file for _, file in files if file.rule == rule.name]
        if not mine:
            problems.append(f"rule {rule.name}: has no fixtures")
        elif all(fixture.verdicts for file in mine for fixture in file.fixtures):
            problems.append(f"rule {rule.name}: has no negative fixture: one that expects no verdicts")
        elif rule.name not in failed:
            problems += _find_unpinned(rules, rule, mine)
    return trials, problems


def run_fixture(rules: Rules, folds: Sequence[Fold]) -> list[Verdict]:
    """Give the verdicts that the folds lead to, each fold in a record of its own."""
    shard = Shard(0, rules, {}, None)
    allowlist = Allowlist(rules.allowlist)
    states: dict[str, AbuseState | None] = {}
    keep_ms = DENIALS.retention_ms + rules.longest_penalty_ms
    verdicts = []
    for offset, fold in enumerate(folds):
        at_ms = fold.last_ms
        weighing = shard.weigh(offset, FoldsEvent(_SOURCE, offset + 1, at_ms, [fold]), taken_ms=at_ms)
        for crossing in weighing.crossings:
            assert weighing.origin is not None  # noqa: S101 - folds have one
            offence = make_offence(crossing, weighing.origin, rules)
            rule = crossing.watch.rule
            if allowlist.find(offence.subject, offence.at_ms):
                verdicts.append(_name_verdict(offence, judge_exempt(offence), rules))
                continue
            judgement = judge(states.get(fold.subject), offence, rules.find_ladder(rule), now_ms=at_ms, keep_ms=keep_ms)
            states[fold.subject] = judgement.state
            verdicts.append(_name_verdict(offence, judgement.finding, rules))
        shard.accept(weighing)
    return verdicts


def _name_verdict(offence: Offence, finding: Finding, rules: Rules) -> Verdict:
    rungs = rules.find_ladder(rules.find(offence.rule)).rungs
    rung = rungs[finding.rung - 1].name if finding.rung else ""
    return Verdict(offence.at_ms - START_MS, offence.rule, offence.subject, finding.result, rung)


def _list_expected(file: Fixtures, fixture: Fixture) -> list[Verdict]:
    return [
        Verdict(
            expected.at,
            expected.rule or file.rule,
            expected.subject or file.refusals.subject,
            expected.result,
            expected.rung or "",
        )
        for expected in fixture.verdicts
    ]


def _find_differences(rules: Rules, file: Fixtures) -> Iterator[str]:
    names = [rule.name for rule in rules.rules]
    if file.rule not in names:
        yield f"{file.rule!r} is no rule; the rules are: {', '.join(names) or 'none'}"
        return
    for fixture in file.fixtures:
        expected, came = _list_expected(file, fixture), run_fixture(rules, file.list_folds(fixture))
        if came != expected:
            yield f"{fixture.name!r}: expected {_list(expected)}; came {_list(came)}"


def _list(verdicts: Sequence[Verdict]) -> str:
    return ", ".join(map(str, verdicts)) or "no verdict"


def _find_unpinned(rules: Rules, rule: Rule, files: Sequence[Fixtures]) -> Iterator[str]:
    for place, threshold, mutant in _mutate(rules, rule):
        if all(
            run_fixture(mutant, file.list_folds(fixture)) == _list_expected(file, fixture)
            for file in files
            for fixture in file.fixtures
        ):
            yield f"rule {rule.name}: {place} is not pinned: with {threshold} all its fixtures come out the same"


def _mutate(rules: Rules, rule: Rule) -> Iterator[tuple[str, int, Rules]]:
    """Every threshold one lower and one higher, unvalidated: one too high to be written down may still be told apart."""
    for step in (-1, 1):
        if rule.threshold + step >= 1:
            changed = rule.model_copy(update={"threshold": rule.threshold + step})
            yield f"threshold {rule.threshold}", changed.threshold, _replace(rules, rule, changed)
        for number, harder in enumerate(rule.harder):
            mutant = harder.model_copy(update={"threshold": harder.threshold + step})
            steps = (*rule.harder[:number], mutant, *rule.harder[number + 1 :])
            changed = rule.model_copy(update={"harder": steps})
            yield f"harder threshold {harder.threshold}", mutant.threshold, _replace(rules, rule, changed)


def _replace(rules: Rules, rule: Rule, changed: Rule) -> Rules:
    return rules.model_copy(update={"rules": tuple(changed if one is rule else one for one in rules.rules)})
