"""Rules on their fixtures: the shipped ones, and every way in which they could be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.document import read_document
from detector.fixtures import Fixtures
from detector.rules import Rules
from detector.trials import try_rules

RULES = read_document(Path("config/rules.yaml"), Rules).model
SHIPPED = [(path.stem, read_document(path, Fixtures).model) for path in sorted(Path("config/rules-fixtures").glob("*.yaml"))]
[BRUTE_FORCE] = [file for name, file in SHIPPED if name == "brute_force"]


def only(name: str, **changes: object) -> Rules:
    rule = RULES.find(name).model_copy(update=changes)
    return RULES.model_copy(update={"rules": (rule,)})


def without(file: Fixtures, *words: str) -> Fixtures:
    left = tuple(fixture for fixture in file.fixtures if not any(word in fixture.name for word in words))
    assert 0 < len(left) < len(file.fixtures)
    return file.model_copy(update={"fixtures": left})


def test_shipped_rules_do_what_their_fixtures_say_and_every_threshold_is_pinned() -> None:
    trials, problems = try_rules(RULES, SHIPPED)
    assert {trial.name for trial in trials} == {rule.name for rule in RULES.rules}
    assert [problem for trial in trials for problem in trial.problems] == []
    assert problems == []


@pytest.mark.parametrize(("name", "file"), SHIPPED)
@pytest.mark.parametrize("twin", ["fewer", "just outside the window", "in between"])
def test_every_shipped_rule_has_its_negative_twins(name: str, file: Fixtures, twin: str) -> None:
    assert [fixture for fixture in file.fixtures if twin in fixture.name and not fixture.verdicts], name


@pytest.mark.parametrize("rule", [rule.name for rule in RULES.rules])
@pytest.mark.parametrize("step", [-1, 1])
def test_threshold_one_off_comes_out_different(rule: str, step: int) -> None:
    mine = [(name, file) for name, file in SHIPPED if file.rule == rule]
    trials, _ = try_rules(only(rule, threshold=RULES.find(rule).threshold + step), mine)
    assert any(trial.problems for trial in trials)


def test_difference_names_the_fixture_and_what_came() -> None:
    [trial], _ = try_rules(only("brute_force", start="warn"), [("file", BRUTE_FORCE)])
    assert trial.problems[0] == (
        "'the tenth refusal within a minute bans for a minute': expected 45s brute_force user=alice applied ban_1m; "
        "came 45s brute_force user=alice applied warn"
    )


def test_rule_without_fixtures_and_rule_without_a_negative_one_are_told() -> None:
    assert try_rules(only("brute_force"), [])[1] == ["rule brute_force: has no fixtures"]
    positive = BRUTE_FORCE.model_copy(update={"fixtures": BRUTE_FORCE.fixtures[:1]})
    assert try_rules(only("brute_force"), [("file", positive)])[1] == [
        "rule brute_force: has no negative fixture: one that expects no verdicts"
    ]


@pytest.mark.parametrize(("twins", "with_"), [(("fewer", "just outside", "tenth refusal"), 9), (("tenth refusal", "ban"), 11)])
def test_threshold_that_no_fixture_pins_is_told_with_the_one_that_comes_out_the_same(
    twins: tuple[str, ...], with_: int
) -> None:
    file = without(BRUTE_FORCE, *twins)
    _, problems = try_rules(only("brute_force"), [("file", file)])
    assert f"rule brute_force: threshold 10 is not pinned: with {with_} all its fixtures come out the same" in problems


def test_each_harder_threshold_has_to_be_pinned_too() -> None:
    rules = Rules.model_validate(
        RULES.model_dump()
        | {"rules": [RULES.find("brute_force").model_dump() | {"harder": [{"threshold": 30, "start": "ban_1h"}]}]}
    )
    _, problems = try_rules(rules, [("file", BRUTE_FORCE.model_copy(update={"fixtures": BRUTE_FORCE.fixtures[:3]}))])
    assert [problem.partition(" is not")[0] for problem in problems] == ["rule brute_force: harder threshold 30"] * 2


def test_fixtures_of_no_rule_are_told() -> None:
    [trial], _ = try_rules(only("brute_force"), [("file", BRUTE_FORCE.model_copy(update={"rule": "other"}))])
    assert trial.problems == ("'other' is no rule; the rules are: brute_force",)


def test_offence_of_an_exempt_subject_comes_to_nothing() -> None:
    exemption = {"kind": "user", "value": "alice", "reason": "r", "actor": "a"}
    rules = Rules.model_validate(only("brute_force").model_dump() | {"allowlist": [exemption]})
    positive = BRUTE_FORCE.model_copy(update={"fixtures": BRUTE_FORCE.fixtures[:1]})
    [trial], _ = try_rules(rules, [("file", positive)])
    assert trial.problems[0].endswith("came 45s brute_force user=alice exempt")
