"""What one policies document changes against another, in words for whoever approves it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from config.document import Loaded
from enforcer.limits.bucket import Terms
from enforcer.limits.policy import Policies
from enforcer.limits.policy_document import LimitDocument, OverrideDocument, PoliciesDocument, PolicyDocument, TermsDocument


def describe_changes(old: Loaded[PoliciesDocument], new: Loaded[PoliciesDocument]) -> list[str]:
    """List what changes for checks, one line each: ``place: what``. Empty when every check is decided as before.

    Terms are *loosened* when neither capacity nor refill rate falls and one rises, *tightened* when it is the other way, and
    *changed* where one rises and the other falls.
    """
    before, after = old.model, new.model
    return [
        *_describe_document(before, after),
        *_describe_policies(before, after),
        *_describe_matches(Policies.compile(old), Policies.compile(new)),
        *_describe_overrides(before.overrides, after.overrides),
    ]


def _describe_document(old: PoliciesDocument, new: PoliciesDocument) -> Iterator[str]:
    yield from _describe_values("document", old, new, ("mode", "expected_enforcers"))
    for key in ("subjects", "attributes", "foldable"):
        before, after = getattr(old, key), getattr(new, key)
        yield from (f"{key}: {name} is removed" for name in before if name not in after)
        yield from (f"{key}: {name} is added" for name in after if name not in before)
    yield from _describe_values("envoy", old.envoy, new.envoy, ("domains", "keys"))
    before, after = (document.tier.attribute if document.tier else "none" for document in (old, new))
    if before != after:
        yield f"document: tier.attribute: {before}, now {after}"


def _describe_values(place: str, old: object, new: object, keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            yield f"{place}: {key}: {_write(before)}, now {_write(after)}"


def _write(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key} is {meant}" for key, meant in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(value) or "nobody"
    return "none" if value is None else str(value)


def _describe_policies(old: PoliciesDocument, new: PoliciesDocument) -> Iterator[str]:
    before = {policy.name: policy for policy in old.policies}
    after = {policy.name: policy for policy in new.policies}
    yield from (f"{name}: the policy is removed" for name in before if name not in after)
    for name, policy in after.items():
        if name not in before:
            yield f"{name}: a policy is added, for {policy.match.action}" + " on top of others" * policy.also
        yield from _describe_policy(before.get(name), policy)


def _describe_policy(old: PolicyDocument | None, new: PolicyDocument) -> Iterator[str]:
    if old is not None:
        yield from _describe_values(f"{new.name}: match", old.match, new.match, type(new.match).model_fields)
        yield from _describe_values(new.name, old, new, ("also", "without_redis", "priority", "identity"))
    before = {limit.name: limit for limit in old.limits} if old else {}
    after = {limit.name: limit for limit in new.limits}
    yield from (f"{new.name}:{name}: the limit is removed" for name in before if name not in after)
    for name, limit in after.items():
        label = f"{new.name}:{name}"
        if name in before:
            yield from _describe_limit(label, before[name], limit)
        else:
            yield f"{label}: a limit is added: {_write_terms(limit)}, per {_write(limit.per)}, mode {limit.mode}"
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield f"{new.name}: the limits are in another order"


def _describe_limit(label: str, old: LimitDocument, new: LimitDocument) -> Iterator[str]:
    yield from _describe_terms(label, old, new)
    for line in _describe_values(label, old, new, ("per",)):
        yield f"{line}; all buckets are new"
    yield from _describe_values(label, old, new, ("mode", "enforce_percent", "required"))
    yield from (f"{label}: tier {tier} is removed" for tier in old.tiers if tier not in new.tiers)
    for tier, terms in new.tiers.items():
        if tier in old.tiers:
            yield from _describe_terms(f"{label}: tier {tier}", old.tiers[tier], terms)
        else:
            yield f"{label}: tier {tier} is added: {_write_terms(terms)}"


def _describe_terms(place: str, old: TermsDocument, new: TermsDocument) -> Iterator[str]:
    before, after = old.compile_terms(), new.compile_terms()
    rates = _measure_rate(before), _measure_rate(after)
    if (before.capacity, rates[0]) == (after.capacity, rates[1]):
        return
    rises = after.capacity > before.capacity or rates[1] > rates[0]
    falls = after.capacity < before.capacity or rates[1] < rates[0]
    word = "changed" if rises and falls else "loosened" if rises else "tightened"
    yield f"{place}: {word}: {_write_terms(old)}, now {_write_terms(new)}"


def _measure_rate(terms: Terms) -> Fraction:
    """Tokens per microsecond."""
    return Fraction(terms.refill, terms.period_ticks * terms.tick_us)


def _write_terms(terms: TermsDocument) -> str:
    return f"capacity {terms.capacity} refill {terms.refill}"


def _describe_matches(old: Policies, new: Policies) -> Iterator[str]:
    """For each action and glob that either names; what a glob stands for is judged by one action that it matches."""
    for action in dict.fromkeys(policy.action for policy in (*old, *new)):
        sample = action.replace("*", "x")
        (*on_top, matched), (*on_top_now, matched_now) = (
            [policy.name for policy in one.match_all(sample)] for one in (old, new)
        )
        if matched != matched_now:
            yield f"action {action}: matched by {matched}, now by {matched_now}"
        if on_top != on_top_now:
            yield f"action {action}: on top of it {', '.join(on_top) or 'nothing'}, now {', '.join(on_top_now) or 'nothing'}"


def _describe_overrides(old: Iterable[OverrideDocument], new: Iterable[OverrideDocument]) -> Iterator[str]:
    before, after = _name_overrides(old), _name_overrides(new)
    yield from (f"{place}: the override is removed" for place in before if place not in after)
    for place, override in after.items():
        if place in before:
            yield from _describe_terms(place, before[place], override)
            yield from _describe_values(place, before[place], override, ("until",))
        else:
            until = f", until {override.until}" if override.until else ""
            yield f"{place}: an override is added: {_write_terms(override)}{until}"


def _name_overrides(overrides: Iterable[OverrideDocument]) -> Mapping[str, OverrideDocument]:
    return {f"{each.policy}:{each.limit} for {each.subject.name}": each for each in overrides}
