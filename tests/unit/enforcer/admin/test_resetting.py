from __future__ import annotations

import pytest

from enforcer.admin import resetting
from enforcer.admin.resetting import TooManyBuckets, find_buckets
from lua.keys import find_slot, name_verdict
from tests.unit.enforcer.builders import POLICIES_IN_FORCE, make_plan, make_policies


def test_buckets_that_are_the_subject_s_alone_are_those_that_its_checks_take_from() -> None:
    buckets = find_buckets(POLICIES_IN_FORCE, "user=alice", "other")
    keys = {key for keys in buckets.keys.values() for key in keys}
    taken_from = {key for action in ("login", "shared", "other") for key in make_plan(action=action).bucket_keys}
    assert keys >= {key for key in taken_from if "user=alice" in key}
    assert buckets.left == ()


def test_limit_that_counts_each_action_is_left_unless_one_is_named() -> None:
    buckets = find_buckets(POLICIES_IN_FORCE, "user=alice", "")
    assert buckets.left == ("default:per_user",)
    assert list(buckets.keys) == ["user=alice"]
    named = find_buckets(POLICIES_IN_FORCE, "user=alice", "other").keys["user=alice"]
    assert set(make_plan(action="other").bucket_keys) <= set(named)


def test_buckets_are_told_by_what_keeps_them_together_on_a_cluster() -> None:
    policies = make_policies(
        """
version: 1
subjects: [user]
policies:
  - name: default
    match: { action: "*" }
    limits:
      - { name: one, per: [user], capacity: 5, refill: 5/1m }
      - { name: each, per: [action, user], capacity: 5, refill: 5/1m }
"""
    )
    buckets = find_buckets(policies, "user=alice", "other").keys
    assert list(buckets) == ["user=alice", "action=other"]
    for tag, keys in buckets.items():
        assert {find_slot(key) for key in keys} == {find_slot(name_verdict(tag, "v"))}


def test_other_kinds_are_not_touched() -> None:
    assert find_buckets(POLICIES_IN_FORCE, "ip=203.0.113.7", "").keys == {
        "ip=203.0.113.7": ["rate_limit:{ip=203.0.113.7}:login:per_ip", "rate_limit:{ip=203.0.113.7}:login:per_ip:shadow"]
    }


def test_more_buckets_than_one_call_should_fill_need_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resetting, "MOST_BUCKETS", 1)
    with pytest.raises(TooManyBuckets) as refused:
        find_buckets(POLICIES_IN_FORCE, "user=alice", "")
    assert str(refused.value) == "policy is empty, and user=alice may have 4 buckets; name one, 1 are allowed"


def test_every_form_of_a_limit_that_a_check_could_have_taken_from_is_filled() -> None:
    policies = make_policies(
        """
version: 1
subjects: [user]
tier: { attribute: plan }
policies:
  - name: default
    match: { action: "*" }
    limits:
      - { name: mine, per: [user], capacity: 5, refill: 5/1m, enforce_percent: 50, tiers: { a: { capacity: 9, refill: 9/1m } } }
"""
    )
    [filled] = find_buckets(policies, "user=alice", "").keys.values()
    for plan in ("a", "b"):
        assert set(make_plan("alice", "x", attributes={"plan": plan}, policies=policies).bucket_keys) <= set(filled)
    assert len(filled) == 4
