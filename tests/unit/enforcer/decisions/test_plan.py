"""What a check asks of Redis: subjects, limits and keys."""

from __future__ import annotations

import pytest

from enforcer.limits.check import InvalidCheck
from lua.keys import name_bucket
from tests.unit.enforcer.builders import ODD_IDS, make_plan, make_policies


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_keys_of_odd_ids_are_plain(user_id: str) -> None:
    plan = make_plan(user_id)
    assert plan.check.user_id == user_id
    for key in plan.keys:
        assert key.isascii()
        assert key.isprintable()
        assert " " not in key
        assert (key.count("{"), key.count("}")) == (1, 1)


def test_odd_ids_do_not_share_a_bucket() -> None:
    keys = {make_plan(user_id).bucket_keys for user_id in ODD_IDS}
    assert len(keys) == len(ODD_IDS)


def test_addresses_of_one_network_share_a_bucket_and_others_do_not() -> None:
    def key(ip: str) -> str:
        return make_plan(attributes={"ip": ip}).bucket_keys[0]

    assert key("2001:db8::1") == key("2001:0DB8::ffff") != key("2001:db8:0:1::1")
    assert key("203.0.113.7") == key("::ffff:203.0.113.7") != key("203.0.113.8")


def test_plan_names_subjects_limits_and_keys_in_the_policys_order() -> None:
    plan = make_plan("alice", "login", attributes={"ip": "203.0.113.7", "agent": "curl"})
    assert plan.template.policy.name == "login"
    assert plan.subjects == ("user=alice", "ip=203.0.113.7")
    assert [limit.name for limit in plan.limits] == ["per_ip", "per_user"]
    assert plan.keys == (
        "abuse:{user=alice}",
        "abuse:{ip=203.0.113.7}",
        "rate_limit:{ip=203.0.113.7}:login:per_ip",
        "rate_limit:{user=alice}:login:per_user",
    )
    assert plan.bucket_keys == plan.keys[2:]


@pytest.mark.parametrize("attributes", [{}, {"ip": ""}, {"agent": "curl"}])
def test_limit_whose_subject_is_absent_does_not_apply(attributes: dict[str, str]) -> None:
    plan = make_plan(attributes=attributes)
    assert plan.subjects == ("user=alice",)
    assert [limit.name for limit in plan.limits] == ["per_user"]


def test_limit_per_nobody_is_one_bucket_for_all() -> None:
    assert make_plan("alice", "shared").bucket_keys[0] == make_plan("bob", "shared").bucket_keys[0]
    assert make_plan("alice", "shared").bucket_keys[0] == name_bucket("global", "shared", "everybody")


def test_limit_per_action_has_a_bucket_for_each_action_of_a_glob() -> None:
    one, other = make_plan("alice", "read"), make_plan("alice", "write")
    assert one.bucket_keys != other.bucket_keys
    assert one.bucket_keys == ("rate_limit:{user=alice}&action=read:default:per_user",)


def test_limit_that_is_off_is_left_out() -> None:
    assert [limit.name for limit in make_plan("alice", "shared").limits] == ["everybody", "trial"]


def test_policy_without_limits_plans_nothing_to_take() -> None:
    plan = make_plan("alice", "free", cost=10**12)
    assert (plan.limits, plan.bucket_keys) == ((), ())
    assert plan.keys == ("abuse:{user=alice}",)


def test_cost_above_a_capacity_is_refused_and_names_the_limit() -> None:
    assert make_plan(cost=5).check.cost == 5
    with pytest.raises(InvalidCheck) as refused:
        make_plan(cost=6)
    assert str(refused.value) == "cost is 6; limit login:per_user holds at most 5 tokens"


def test_limit_in_shadow_mode_never_refuses_a_cost() -> None:
    plan = make_plan(action="shared", cost=100)
    assert [limit.terms.capacity for limit in plan.limits] == [100, 2]
    with pytest.raises(InvalidCheck) as refused:
        make_plan(action="shared", cost=101)
    assert str(refused.value) == "cost is 101; limit shared:everybody holds at most 100 tokens"


def test_only_limits_that_apply_bound_the_cost() -> None:
    assert make_plan(action="other", cost=100, attributes={"ip": "203.0.113.7"}).check.cost == 100


def test_limit_per_two_kinds_has_a_bucket_for_each_pair() -> None:
    policies = make_policies(
        "version: 1\nsubjects: [user, ip, key]\npolicies:\n  - name: d\n    match: { action: '*' }\n    limits:\n"
        "      - { name: pair, per: [ip, user], capacity: 1, refill: 1/1s }\n"
        "      - { name: all, per: [key, action, ip], capacity: 1, refill: 1/1s }\n"
    )
    plan = make_plan("a b", "x", attributes={"ip": "::1", "key": "k"}, policies=policies)
    assert plan.bucket_keys == (
        "rate_limit:{ip=::/64}&user=a%20b:d:pair",
        "rate_limit:{key=k}&action=x&ip=::/64:d:all",
    )
