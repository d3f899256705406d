from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from config.document import DocumentError, parse_document, read_document
from detector.rules import Rules, find_risks, matches_glob, may_lock_out, write_schema
from detector.watches import compile_watches
from topics.wire import Fold

DOCUMENT = """\
version: 1
ladder:
  half_life: 24h
  rungs:
    - { name: warn, penalty: warn, duration: 10m }
    - { name: half, penalty: tighten, factor: 0.5, duration: 10m }
    - { name: ban_1m, penalty: ban, duration: 1m }
rules:
  - name: brute_force
    by: user
    match: { action: login }
    threshold: 10
    window: 60s
    start: ban_1m
"""


def parse(text: str) -> Rules:
    return parse_document(text, Rules, name="rules.yaml").model


def make_fold(**changes: str) -> Fold:
    fold = Fold("user=alice", "login", "login", "per_user", 1, 0, 0)
    return msgspec.structs.replace(fold, **changes)


def test_shipped_rules_ban_a_brute_forcer_for_a_minute() -> None:
    rules = read_document(Path("config/rules.yaml"), Rules).model
    rule = rules.find("brute_force")
    assert (rule.name, rule.by, rule.match.action, rule.threshold, rule.window_ms) == (
        "brute_force",
        "user",
        ("login",),
        10,
        60_000,
    )
    assert [rung.duration_ms for rung in rules.ladder.rungs[rules.start_rung(rule, rule.start) - 1 :]] == [
        60_000, 600_000, 3_600_000, 86_400_000
    ]  # fmt: skip
    assert rule.ban_scope == ("login",)
    assert rule.mode == "enforce"


def test_defaults_are_the_rule_s_own_actions_and_enforcing() -> None:
    [rule] = parse(DOCUMENT).rules
    assert (rule.ban_scope, rule.mode, rule.counts) == (("login",), "enforce", "denials")
    assert rule.match.policy == rule.match.limit == ("*",)


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("threshold: 10", "threshold: 0", ":12: rules[0].threshold: input should be greater than or equal to 1, not 0"),
        ("threshold: 10", "treshold: 10", ":12: rules[0].treshold: unknown key; allowed are: name, description, "),
        ("    threshold: 10\n", "", "rules[0].threshold: is missing"),
        ("window: 60s", "window: 60", ":13: rules[0].window: 60 is not a duration; write a whole number and a unit"),
        ("window: 60s", "window: 500ms", ":13: rules[0].window: 500ms is out of bounds; allowed: 1s to 1d, not '500ms'"),
        ("start: ban_1m", "start: ban_2m", ":9: rules[0]: start 'ban_2m' is no rung; allowed: warn, half, ban_1m"),
        ("name: brute_force", "name: Brute", ":9: rules[0].name: 'Brute' is not a name; allowed: a-z first"),
        ("action: login", 'action: "log\\"in"', ":11: rules[0].match.action[0]: 'log\"in' is not a glob; allowed: letters"),
        ("action: login", "action: []", ":11: rules[0].match.action: value should have at least 1 item"),
        ("by: user", "by: user\n    mode: off", ":11: rules[0].mode: input should be 'enforce' or 'shadow'"),
        ("by: user", "by: user\n    counts: logins", ":11: rules[0].counts: input should be 'denials', 'actions' or 'users'"),
        ("by: user", "by: user\n    counts: users", ":9: rules[0]: counts: users is for other kinds than user: a user is one"),
        ("by: user\n", "by: ip\n    counts: users\n    harder: [{ threshold: 50, start: ban_1m }]\n",
         ":9: rules[0]: threshold 50 is too high for distinct users; at most 40"),
        ("by: user", "by: ip\n    counts: actions", ":9: rules[0]: threshold 10 is never reached: match names 1 actions"),
        ("by: user", "by: user\n    harder: [{ threshold: 10, start: ban_1m }]", "thresholds have to ascend; these are 10, 10"),
        ("by: user", "by: user\n    harder: [{ threshold: 20, start: ban_2m }]", "start 'ban_2m' is no rung; allowed: warn"),
        ("by: user", "by: user\n    ladder: soft", "rules[0]: 'soft' is no ladder; allowed: none, for there are no ladders"),
        ("by: user", "by: user\n    most_admitted: 2", ":11: rules[0].most_admitted: 2 is not a share; allowed: a number"),
        ("by: user", "by: user\n    percent: 101", ":11: rules[0].percent: input should be less than or equal to 100"),
        ("by: user", 'by: user\n    description: "{who}"', "description: '{who}' cannot be filled in; allowed are"),
        ("rules:", "allowlist: [{ kind: ip, value: x, reason: y }]\nrules:", "allowlist[0].actor: is missing"),
        ("rules:", "allowlist: [{ kind: ip, value: x, reason: y, until: 2027-01-01 }]\nrules:", "allowlist[0].until: "),
        ("factor: 0.5", "factor: 1.5", ":6: ladder.rungs[1].factor: 1.5 is not a factor; allowed: a number from 0.001"),
        ("factor: 0.5, ", "", ":6: ladder.rungs[1]: factor belongs to the penalty tighten, and to it alone"),
        ("name: half", "name: warn", "ladder: two rungs have the same name"),
        ("penalty: warn", "penalty: shout", ":5: ladder.rungs[0].penalty: input should be 'warn', 'tighten' or 'ban'"),
        ("version: 1", "version: 2", ":1: version: input should be 1, not 2"),
        ("by: user", "by: user\n    by: ip", ":11: by: stands here a second time"),
        ("version: 1", "version: [", ":3: not YAML"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_file_line_key_and_what_is_allowed(old: str, new: str, mistake: str) -> None:
    assert old in DOCUMENT
    with pytest.raises(DocumentError) as caught:
        parse(DOCUMENT.replace(old, new, 1))
    assert mistake in str(caught.value)
    assert all(problem.startswith("rules.yaml:") for problem in caught.value.problems)


def test_two_rules_of_one_name_are_refused() -> None:
    twice = DOCUMENT + DOCUMENT[DOCUMENT.index("  - name: brute_force") :]
    with pytest.raises(DocumentError, match=r"rules\[1\]: 'brute_force' is the name of another rule"):
        parse(twice)


def test_digest_follows_meaning_and_not_layout() -> None:
    digest = parse(DOCUMENT).digest
    assert parse(DOCUMENT.replace("60s", "1m") + "# a comment\n").digest == digest
    assert parse(DOCUMENT.replace("threshold: 10", "threshold: 11")).digest != digest


@pytest.mark.parametrize(
    ("globs", "text", "is_match"),
    [
        (("login",), "login", True),
        (("login",), "login2", False),
        (("api/*",), "api/v1/items", True),
        (("api/*",), "xapi/", False),
        (("*",), "", True),
        (("a.c",), "abc", False),
        (("x", "a*c"), "a\nc", True),
    ],
)
def test_globs_match_the_whole_action(globs: tuple[str, ...], text: str, is_match: bool) -> None:
    assert matches_glob(globs, text) is is_match


@pytest.mark.parametrize(
    "changes", [{"subject": "ip=203.0.113.7"}, {"action": "search"}, {"limit": "per_ip"}, {"policy": "other"}]
)
def test_rule_covers_a_fold_only_if_kind_action_policy_and_limit_match(changes: dict[str, str]) -> None:
    text = DOCUMENT.replace("{ action: login }", "{ action: login, policy: login, limit: per_user }")
    [watch] = compile_watches(parse(text))
    assert watch.covers(make_fold())
    assert not watch.covers(make_fold(**changes))


def test_users_can_be_locked_out_by_a_rule_that_bans_them_for_real() -> None:
    for change, can in (("", True), ("    mode: shadow\n", False)):
        rules = parse(DOCUMENT + change)
        assert may_lock_out(rules, rules.rules[0]) is can
    rules = parse(DOCUMENT.replace("by: user", "by: ip"))
    assert not may_lock_out(rules, rules.rules[0])


@pytest.mark.parametrize(("window", "is_risk"), [("60s", True), ("61s", False)])
def test_harder_threshold_behind_a_ban_that_outlasts_the_window_is_a_risk(window: str, is_risk: bool) -> None:
    text = DOCUMENT.replace(
        "ban_1m, penalty: ban, duration: 1m }",
        "ban_1m, penalty: ban, duration: 1m }\n    - { name: ban_1h, penalty: ban, duration: 1h }",
    )
    text = text.replace("window: 60s", f"window: {window}") + "    harder: [{ threshold: 50, start: ban_1h }]\n"
    risks = find_risks(parse(text))
    assert bool(risks) is is_risk
    assert not risks or "threshold 50 is hardly ever reached" in risks[0]


def test_schema_for_editors_is_that_of_the_model_and_the_shipped_rules_name_it() -> None:
    assert json.loads(Path("config/rules.schema.json").read_text()) == write_schema(), "write it anew: make schemas"
    assert Path("config/rules.yaml").read_text().startswith("# yaml-language-server: $schema=rules.schema.json\n")
