"""Rules against the policies that feed them: every way in which a rule can count nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from config.declared import DeclaredPolicies
from config.document import read_document
from detector.feeding import find_hungry, find_misfits, is_claimed
from detector.rules import Rules

SHIPPED = read_document(Path("config/rules.yaml"), Rules).model
POLICIES = """
subjects: [user, ip]
foldable: [agent]
policies:
  - name: login
    match: { action: login }
    identity: authenticated
    limits:
      - { name: per_ip, per: [ip] }
      - { name: per_user, per: [user] }
      - { name: tried, per: [ip], mode: shadow }
  - { name: all, match: { action: "*" }, limits: [{ name: per_user, per: [user] }] }
"""
DECLARED = DeclaredPolicies.model_validate(yaml.safe_load(POLICIES))


def make_rules(match: dict[str, Any] | None = None, **changes: Any) -> Rules:
    rule = {"name": "it", "by": "user", "threshold": 2, "window": "1m", "start": "ban"} | changes
    ladder = {"half_life": "1h", "rungs": [{"name": "ban", "penalty": "ban", "duration": "1m"}]}
    return Rules.model_validate({"version": 1, "ladder": ladder, "rules": [rule | {"match": match or {"action": "login"}}]})


def test_shipped_rules_fit_the_shipped_policies_and_none_is_hungry() -> None:
    declared = read_document(Path("config/policies.yaml"), DeclaredPolicies).model
    assert find_misfits(SHIPPED, declared) == find_hungry(SHIPPED, declared) == ()


@pytest.mark.parametrize(
    ("match", "changes", "problem"),
    [
        ({"action": "login"}, {"by": "device"}, "rules[0].by: 'device' is no subject of the policies; allowed: user, ip"),
        (
            {"action": "login", "attributes": {"country": "xx"}},
            {},
            "rules[0].match.attributes.country: is not foldable by the policies; allowed: agent",
        ),
        (
            {"action": "login", "policy": ["login", "logn"]},
            {},
            "rules[0].match.policy[1]: no policy is called 'logn'; allowed: login, all",
        ),
        ({"action": "login", "policy": "all"}, {}, "rules[0].match.policy: decides none of the rule's actions; allowed: login"),
        (
            {"action": "login", "limit": "per_day"},
            {},
            "rules[0].match.limit[0]: no limit is called 'per_day'; allowed: per_ip, per_user, tried",
        ),
        (
            {"action": "login", "limit": "per_user"},
            {"by": "ip"},
            "rules[0].match: nothing feeds it: login:per_user are not per ip, so nobody is counted",
        ),
        (
            {"action": "search"},
            {"by": "ip"},
            "rules[0].match: nothing feeds it: all:per_user are not per ip, so nobody is counted",
        ),
    ],
)
def test_what_the_policies_do_not_have_is_told_with_its_place_and_what_is_allowed(
    match: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    assert find_misfits(make_rules(match, **changes), DECLARED) == (problem,)


def test_exempt_kind_has_to_be_declared() -> None:
    exemption = {"kind": "device", "value": "x", "reason": "r", "actor": "a"}
    rules = Rules.model_validate(make_rules().model_dump() | {"allowlist": [exemption]})
    assert find_misfits(rules, DECLARED) == ("allowlist[0].kind: 'device' is no subject of the policies; allowed: user, ip",)


def test_globs_that_some_policy_and_limit_match_are_fed() -> None:
    match = {"action": "log*", "policy": "l*", "limit": "per_*", "attributes": {"agent": "curl*"}}
    assert find_misfits(make_rules(match), DECLARED) == ()


def test_limits_that_refuse_nobody_leave_a_rule_hungry() -> None:
    assert find_hungry(make_rules({"action": "login", "limit": "tried"}, by="ip"), DECLARED) == (
        "rule it: counts nothing: login:tried refuse nobody, in shadow mode or off",
    )
    shadowed = DECLARED.model_copy(update={"mode": "shadow"})
    assert find_hungry(make_rules(), shadowed) == (
        "rule it: counts nothing: login:per_user refuse nobody, in shadow mode or off",
    )


def test_action_that_only_the_catch_all_decides_may_be_a_slip() -> None:
    assert find_hungry(make_rules({"action": "logn"}), DECLARED) == (
        "rule it: no policy names the action 'logn'; the catch-all decides it",
    )


def test_identity_is_that_of_the_policies_that_decide_the_rule_s_actions() -> None:
    [of_login] = make_rules().rules
    [of_all] = make_rules({"action": ["login", "search"]}).rules
    assert (is_claimed(of_login, DECLARED), is_claimed(of_all, DECLARED)) == (False, True)
