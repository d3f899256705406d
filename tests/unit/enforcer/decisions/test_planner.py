"""What is planned for whom: policies on top, tiers, overrides, shares; and what a planner remembers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import MOST_RETURNING, MOST_TEMPLATES, Planner
from enforcer.limits.bucket import Generation, Terms
from enforcer.limits.check import InvalidCheck
from enforcer.limits.policy import Override, is_enforced_for
from tests.unit.enforcer.builders import EVERYTHING, POLICIES_IN_FORCE, make_check, make_plan, make_policies

IN_FORCE, IN_SHADOW = make_policies(EVERYTHING), make_policies("mode: shadow\n" + EVERYTHING)
SEARCH = IN_FORCE.match("search").limits[0]
IP = {"ip": "203.0.113.7"}
ENFORCED = next(f"u{number}" for number in range(99) if is_enforced_for(SEARCH, f"user=u{number}"))
SPARED = next(f"u{number}" for number in range(99) if not is_enforced_for(SEARCH, f"user=u{number}"))


def test_checks_of_one_form_share_their_template_and_templates_are_bounded() -> None:
    planner = Planner(make_policies())
    one, other = planner.plan(make_check("alice", "a")), planner.plan(make_check("bob", "a"))
    assert one.template is other.template
    for number in range(MOST_TEMPLATES + 10):
        planner.plan(make_check("alice", f"action-{number}"))
    assert len(planner._templates) <= MOST_TEMPLATES
    assert planner.plan(make_check("alice", "a")).keys == one.keys


def test_refused_request_is_recalled_byte_for_byte_and_what_is_remembered_is_bounded() -> None:
    planner, plan = Planner(POLICIES_IN_FORCE), make_plan()
    for number in range(MOST_RETURNING + 10):
        planner.expect(b"%d" % number, plan)
    assert planner.recall(b"%d" % (MOST_RETURNING + 9)) is plan
    assert planner.recall(b"another") is None
    assert len(planner._returning) <= MOST_RETURNING


def plan_everything(
    user: str = ENFORCED, action: str = "search", attributes: dict[str, str] | None = None, *, planner: Planner | None = None
) -> Plan:
    return (planner or Planner(IN_FORCE)).plan(make_check(user, action, attributes=attributes))


def terms_of(plan: Plan, label: str) -> Terms:
    (terms,) = [limit.terms for limit in plan.limits if limit.label == label]
    return terms


def test_policies_on_top_join_the_check_before_the_one_that_matched() -> None:
    plan = plan_everything("alice", "login", {**IP, "country": "DE"})
    assert [limit.label for limit in plan.limits] == [
        "everywhere:per_user",
        "logins:per_country",
        "login:per_ip",
        "login:per_user",
    ]
    assert plan.template.policy.name == "login"
    assert plan.bucket_keys == (
        "rate_limit:{user=alice}:everywhere:per_user",
        "rate_limit:{country=DE}&ip=203.0.113.7:logins:per_country",
        "rate_limit:{ip=203.0.113.7}:login:per_ip",
        "rate_limit:{user=alice}:login:per_user:shadow",
    )


def test_limits_of_one_name_in_two_policies_have_buckets_of_their_own() -> None:
    plan = plan_everything("alice", "else")
    assert [limit.label for limit in plan.limits] == ["everywhere:per_user", "default:shared", "default:per_user"]
    assert len(set(plan.bucket_keys)) == 3


def test_attribute_that_is_no_subject_is_in_keys_alone() -> None:
    plan = plan_everything("alice", "login", {**IP, "country": "DE"})
    assert plan.subjects == ("user=alice", "ip=203.0.113.7")
    assert plan.keys[:2] == ("abuse:{user=alice}", "abuse:{ip=203.0.113.7}")
    assert (plan.template.kinds, plan.template.attributes) == (("user", "ip"), ("country",))


def test_cost_is_bounded_by_the_limits_of_all_policies_that_apply() -> None:
    planner = Planner(IN_FORCE)
    with pytest.raises(InvalidCheck) as refused:
        planner.plan(make_check("alice", "else", cost=101))
    assert str(refused.value) == "cost is 101; limit default:per_user holds at most 100 tokens"
    with pytest.raises(InvalidCheck) as refused:
        planner.plan(make_check(SPARED, "search", cost=501))
    assert str(refused.value) == "cost is 501; limit everywhere:per_user holds at most 500 tokens"
    assert planner.plan(make_check(SPARED, "search", cost=500))


@pytest.mark.parametrize("attributes", [{}, {"ip": ""}, {"country": "DE"}])
def test_check_that_lacks_a_required_subject_is_refused_whatever_it_costs(attributes: dict[str, str]) -> None:
    for cost in (0, 1, 1000):
        with pytest.raises(InvalidCheck) as refused:
            Planner(IN_FORCE).plan(make_check("alice", "login", cost, attributes))
        assert str(refused.value) == "attributes: ip is absent; limit login:per_ip requires it"


@pytest.mark.parametrize(
    ("plan_name", "terms", "suffix"),
    [
        ("gold", Terms.of(100, 100, 60_000_000), ":tier=gold"),
        ("PRO", Terms.of(1000, 1000, 60_000_000), ":tier=PRO"),
        ("gold ", Terms.of(10, 10, 60_000_000), ""),
        ("silver", Terms.of(10, 10, 60_000_000), ""),
        ("", Terms.of(10, 10, 60_000_000), ""),
        (None, Terms.of(10, 10, 60_000_000), ""),
    ],
)
def test_tier_chooses_terms_and_a_bucket_of_its_own(plan_name: str | None, terms: Terms, suffix: str) -> None:
    plan = plan_everything(attributes=None if plan_name is None else {"plan": plan_name})
    assert terms_of(plan, "search:per_user") == terms
    assert plan.bucket_keys[1] == f"rate_limit:{{user={ENFORCED}}}&action=search:search:per_user{suffix}"


def test_limit_is_in_shadow_mode_for_whom_it_is_not_enforced_yet_whatever_the_tier() -> None:
    for attributes, suffix in ((None, ""), ({"plan": "gold"}, ":tier=gold")):
        plan = plan_everything(SPARED, attributes=attributes)
        assert [limit.is_shadow for limit in plan.limits] == [False, True]
        assert plan.bucket_keys[1].endswith(f":search:per_user{suffix}:shadow")
        assert [limit.is_shadow for limit in plan_everything(ENFORCED, attributes=attributes).limits] == [False, False]


def test_whom_a_limit_is_enforced_for_does_not_depend_on_the_action_of_a_glob() -> None:
    planner = Planner(IN_FORCE)
    for user in (ENFORCED, SPARED):
        modes = {plan_everything(user, f"search/{number}", planner=planner).limits[1].is_shadow for number in range(20)}
        assert modes == {user == SPARED}


def test_override_of_the_document_comes_before_the_tier_and_takes_the_limits_own_bucket() -> None:
    plan = plan_everything("partner", attributes={"plan": "gold"})
    assert terms_of(plan, "search:per_user") == Terms.of(1000, 1000, 1_000_000)
    assert ":tier=" not in plan.bucket_keys[1]
    assert terms_of(plan, "everywhere:per_user") == Terms.of(500, 500, 3_600_000_000)
    assert plan.template.varies


def test_override_holds_until_its_end() -> None:
    now_ms = 1_800_000_000_000 - 1
    planner = Planner(IN_FORCE, lambda: now_ms)
    attributes = {"ip": "2001:db8::ffff"}
    assert terms_of(plan_everything("a", "login", attributes, planner=planner), "login:per_ip").capacity == 1
    now_ms += 1
    assert terms_of(plan_everything("a", "login", attributes, planner=planner), "login:per_ip").capacity == 30
    assert terms_of(plan_everything("a", "login", IP, planner=planner), "login:per_ip").capacity == 30


def test_override_made_at_run_time_replaces_what_was_made_before_and_leaves_the_documents_others() -> None:
    planner = Planner(IN_FORCE)
    one, other = Override(Terms.of(7, 7, 1_000_000)), Override(Terms.of(8, 8, 1_000_000))
    planner.override(
        {"user=partner": {("search", "per_user"): one, ("everywhere", "per_user"): one}, "user=x": {("a", "b"): one}}
    )
    assert [limit.terms.capacity for limit in plan_everything("partner", planner=planner).limits] == [7, 7]
    planner.override({"user=partner": {("everywhere", "per_user"): other}})
    assert [limit.terms.capacity for limit in plan_everything("partner", planner=planner).limits] == [8, 1000]
    planner.override({"user=partner": {}, "user=x": {}})
    assert [limit.terms.capacity for limit in plan_everything("partner", planner=planner).limits] == [500, 1000]
    assert planner.overrides.keys() == {"user=partner", "ip=2001:db8::/64"}


def test_first_subject_of_per_decides_where_two_are_overridden() -> None:
    policies = make_policies(
        "version: 1\nsubjects: [user, ip]\npolicies:\n  - name: d\n    match: { action: '*' }\n    limits:\n"
        "      - { name: pair, per: [ip, user], capacity: 1, refill: 1/1s }\n"
    )
    planner = Planner(policies)
    key = ("d", "pair")
    planner.override({"user=a": {key: Override(Terms.of(7, 7, 1))}, "ip=203.0.113.7": {key: Override(Terms.of(8, 8, 1))}})
    assert planner.plan(make_check("a", "x", attributes=IP)).limits[0].terms.capacity == 8
    assert planner.plan(make_check("b", "x", attributes=IP)).limits[0].terms.capacity == 8
    assert planner.plan(make_check("a", "x", attributes={"ip": "::1"})).limits[0].terms.capacity == 7


def test_overridden_limit_is_still_enforced_for_its_share_alone() -> None:
    planner = Planner(IN_FORCE)
    planner.override({f"user={user}": {("search", "per_user"): Override(Terms.of(7, 7, 1))} for user in (ENFORCED, SPARED)})
    for user in (ENFORCED, SPARED):
        limit = plan_everything(user, planner=planner).limits[1]
        assert (limit.terms.capacity, limit.is_shadow) == (7, user == SPARED)


def test_all_who_are_overridden_alike_share_a_template() -> None:
    planner = Planner(IN_FORCE)
    terms = Terms.of(7, 7, 1)
    planner.override({f"user=u{number}": {("default", "per_user"): Override(terms)} for number in range(10)})
    templates = {plan_everything(f"u{number}", "else", planner=planner).template for number in range(10)}
    assert len(templates) == 1
    assert plan_everything("other", "else", planner=planner).template not in templates


def test_plans_of_the_overridden_are_not_remembered_and_a_change_forgets_all() -> None:
    planner = Planner(IN_FORCE)
    planner.expect(b"partner", plan_everything("partner", planner=planner))
    planner.expect(b"alice", plan_everything("alice", planner=planner))
    assert planner.recall(b"partner") is None
    assert planner.recall(b"alice") is not None
    planner.override({})
    assert planner.recall(b"alice") is None


def test_what_is_kept_of_tiers_and_overrides_is_bounded() -> None:
    planner = Planner(IN_FORCE)
    for number in range(MOST_TEMPLATES + 10):
        planner.override({"user=a": {("default", "per_user"): Override(Terms.of(number + 1, 1, 1_000_000))}})
        assert plan_everything("a", "else", planner=planner).limits[-1].terms.capacity == number + 1
    assert len(planner._fitted) <= MOST_TEMPLATES
    assert len(planner._overridden) <= MOST_TEMPLATES


@given(
    user=st.sampled_from(["partner", *[f"u{number}" for number in range(8)]]),
    action=st.sampled_from(["login", "logout", "search", "search/x", "else"]),
    attributes=st.fixed_dictionaries(
        {},
        optional={
            "ip": st.sampled_from(["203.0.113.7", "2001:db8::7", ""]),
            "country": st.sampled_from(["DE", ""]),
            "plan": st.sampled_from(["gold", "PRO", "silver"]),
        },
    ),
    is_all_shadow=st.booleans(),
)
def test_what_is_only_recorded_never_shares_a_bucket_with_what_is_enforced(
    user: str, action: str, attributes: dict[str, str], is_all_shadow: bool
) -> None:
    """Whatever is asked for, by whom and under which document: a key belongs to one mode, limit and tier."""
    planner = Planner(IN_SHADOW if is_all_shadow else IN_FORCE)
    try:
        plan = planner.plan(make_check(user, action, attributes=attributes))
    except InvalidCheck:
        assert (action, bool(attributes.get("ip")), is_all_shadow) == ("login", False, False)
        return
    assert len(plan.bucket_keys) == len(plan.limits) == len(set(plan.bucket_keys))
    for key, limit in zip(plan.bucket_keys, plan.limits, strict=True):
        assert key.endswith(":shadow") == limit.is_shadow
        assert (f":{limit.policy}:{limit.name}" in key, f":tier={limit.tier}" in key) == (True, bool(limit.tier))
        assert limit.is_shadow or not is_all_shadow
    enforced = [limit.terms.capacity for limit in plan.limits if not limit.is_shadow]
    assert plan.template.smallest_capacity == min(enforced, default=2**63)
    assert [limit.label for limit in plan.limits if limit.policy == "everywhere"] == ["everywhere:per_user"]


def test_override_made_at_run_time_is_of_the_documents_generation_and_counts_since_it_was_made() -> None:
    planner = Planner(POLICIES_IN_FORCE.under(Generation(7, 1000)))
    terms = Terms.of(50, 50, 60_000_000).under(Generation(0, 2000))
    planner.override({"user=alice": {("login", "per_user"): Override(terms)}})
    (limit,) = planner.plan(make_check("alice")).limits
    assert limit.terms == terms.under(Generation(7, 2000))
    assert planner.plan(make_check("bob")).limits[0].terms.generation == Generation(7, 1000)


def test_plan_on_an_override_is_not_remembered_when_that_has_ended_meanwhile() -> None:
    planner = Planner(POLICIES_IN_FORCE)
    planner.override({"user=alice": {("login", "per_user"): Override(Terms.of(50, 50, 60_000_000))}})
    plan = planner.plan(make_check("alice"))
    planner.override({"user=alice": {}})
    planner.expect(b"request", plan)
    assert planner.recall(b"request") is None
