"""Whether rules are fed: each needs a limit, in force, that refuses subjects of its kind. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from config.declared import DeclaredLimit, DeclaredPolicies, DeclaredPolicy
from detector.rules import Rule, Rules, matches_glob

_Limits = list[tuple[DeclaredPolicy, DeclaredLimit]]


def find_misfits(rules: Rules, declared: DeclaredPolicies) -> tuple[str, ...]:
    """Say what the rules name and the policies do not have, one line each: ``rules[0].by: what is wrong, what is allowed``."""
    kinds = ", ".join(declared.subjects)
    problems = [
        f"allowlist[{number}].kind: {exemption.kind!r} is no subject of the policies; allowed: {kinds}"
        for number, exemption in enumerate(rules.allowlist)
        if exemption.kind not in declared.subjects
    ]
    for number, rule in enumerate(rules.rules):
        problems += _find_in_rule(rule, f"rules[{number}]", declared)
    return tuple(problems)


def find_hungry(rules: Rules, declared: DeclaredPolicies) -> tuple[str, ...]:
    """Say which rules count nothing for now, or not what they seem to, one line each."""
    lines = []
    for rule in rules.rules:
        feeding = [(policy, limit) for policy, limit in _list_limits(rule, declared) if rule.by in limit.per]
        if feeding and (declared.mode == "shadow" or not any(limit.refuses for _, limit in feeding)):
            lines.append(f"rule {rule.name}: counts nothing: {_name(feeding)} refuse nobody, in shadow mode or off")
        lines += [
            f"rule {rule.name}: no policy names the action {action!r}; the catch-all decides it"
            for action in rule.match.action
            if "*" not in action and all(policy.match.action == "*" for policy in declared.list_for(action))
        ]
    return tuple(lines)


def is_claimed(rule: Rule, declared: DeclaredPolicies) -> bool:
    """Whether some user id that the rule counts is a mere claim of the caller."""
    policies = (policy for action in rule.match.action for policy in declared.list_for(action))
    return any(policy.identity == "claimed" for policy in policies if not policy.also)


def _find_in_rule(rule: Rule, where: str, declared: DeclaredPolicies) -> Iterator[str]:
    if rule.by not in declared.subjects:
        yield f"{where}.by: {rule.by!r} is no subject of the policies; allowed: {', '.join(declared.subjects)}"
        return
    for attribute in rule.match.attributes:
        if attribute not in declared.foldable:
            allowed = ", ".join(declared.foldable) or "none"
            yield f"{where}.match.attributes.{attribute}: is not foldable by the policies; allowed: {allowed}"
    names = [policy.name for policy in declared.policies]
    absent = [number for number, glob in enumerate(rule.match.policy) if not any(matches_glob((glob,), name) for name in names)]
    for number in absent:
        yield f"{where}.match.policy[{number}]: no policy is called {rule.match.policy[number]!r}; allowed: {', '.join(names)}"
    if absent:
        return
    policies = _list_policies(rule, declared)
    if not policies:
        deciding = dict.fromkeys(policy.name for action in rule.match.action for policy in declared.list_for(action))
        yield f"{where}.match.policy: decides none of the rule's actions; allowed: {', '.join(deciding)}"
        return
    limits = dict.fromkeys(limit.name for policy in policies for limit in policy.limits)
    absent = [number for number, glob in enumerate(rule.match.limit) if not any(matches_glob((glob,), name) for name in limits)]
    for number in absent:
        allowed = ", ".join(limits) or "none"
        yield f"{where}.match.limit[{number}]: no limit is called {rule.match.limit[number]!r}; allowed: {allowed}"
    named = _list_limits(rule, declared)
    if not absent and not any(rule.by in limit.per for _, limit in named):
        yield f"{where}.match: nothing feeds it: {_name(named)} are not per {rule.by}, so nobody is counted"


def _list_policies(rule: Rule, declared: DeclaredPolicies) -> list[DeclaredPolicy]:
    deciding = {policy.name: policy for action in rule.match.action for policy in declared.list_for(action)}
    return [policy for policy in deciding.values() if matches_glob(rule.match.policy, policy.name)]


def _list_limits(rule: Rule, declared: DeclaredPolicies) -> _Limits:
    return [
        (policy, limit)
        for policy in _list_policies(rule, declared)
        for limit in policy.limits
        if matches_glob(rule.match.limit, limit.name)
    ]


def _name(limits: _Limits) -> str:
    return ", ".join(f"{policy.name}:{limit.name}" for policy, limit in limits) or "no limit"
