"""What changes between two documents, as a person reads it."""

from __future__ import annotations

import pytest

from config.document import Loaded, parse_document
from enforcer.limits.policy_diff import describe_changes
from enforcer.limits.policy_document import PoliciesDocument
from tests.unit.enforcer.builders import EVERYTHING, POLICIES


def load(text: str) -> Loaded[PoliciesDocument]:
    return parse_document(text, PoliciesDocument, name="policies.yaml")


def diff(*replacements: tuple[str, str], text: str = EVERYTHING) -> list[str]:
    changed = text
    for old, new in replacements:
        assert changed.count(old) == 1, f"{old} stands {changed.count(old)} times"
        changed = changed.replace(old, new)
    return describe_changes(load(text), load(changed))


@pytest.mark.parametrize("text", [POLICIES, EVERYTHING])
def test_nothing_changes_against_the_same_document_or_its_comments(text: str) -> None:
    assert describe_changes(load(text), load(text)) == []
    assert describe_changes(load(text), load(text + "# reviewed\n")) == []


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        pytest.param(
            "capacity: 30, refill: 30/1m",
            "capacity: 20, refill: 20/1m",
            ["login:per_ip: tightened: capacity 30 refill 30/1m, now capacity 20 refill 20/1m"],
            id="tightened",
        ),
        pytest.param(
            "capacity: 30, refill: 30/1m",
            "capacity: 30, refill: 31/1m",
            ["login:per_ip: loosened: capacity 30 refill 30/1m, now capacity 30 refill 31/1m"],
            id="loosened",
        ),
        pytest.param(
            "capacity: 30, refill: 30/1m",
            "capacity: 60, refill: 15/1m",
            ["login:per_ip: changed: capacity 30 refill 30/1m, now capacity 60 refill 15/1m"],
            id="both",
        ),
        pytest.param("capacity: 30, refill: 30/1m", "capacity: 30, refill: 1/2s", [], id="the same rate"),
        pytest.param("mode: shadow }", "mode: enforce }", ["login:per_user: mode: shadow, now enforce"], id="mode"),
        pytest.param(
            "enforce_percent: 50", "enforce_percent: 75", ["search:per_user: enforce_percent: 50, now 75"], id="percent"
        ),
        pytest.param(", required: true", "", ["login:per_ip: required: true, now false"], id="required"),
        pytest.param(
            "per: [country, ip]",
            "per: [country]",
            ["logins:per_country: per: country, ip, now country; all buckets are new"],
            id="per",
        ),
        pytest.param(
            "per: [], capacity: 1000",
            "per: [user], capacity: 1000",
            ["default:shared: per: nobody, now user; all buckets are new"],
            id="per nobody",
        ),
        pytest.param(
            "gold: { capacity: 100, refill: 100/1m }",
            "gold: { capacity: 200, refill: 100/1m }\n          silver: { capacity: 20, refill: 20/1m }",
            [
                "search:per_user: tier gold: loosened: capacity 100 refill 100/1m, now capacity 200 refill 100/1m",
                "search:per_user: tier silver is added: capacity 20 refill 20/1m",
            ],
            id="tiers",
        ),
        pytest.param(
            "          PRO: { capacity: 1000, refill: 1000/1m }\n", "", ["search:per_user: tier PRO is removed"], id="no tier"
        ),
        pytest.param(
            "      - { name: shared, per: [], capacity: 1000, refill: 1000/1s }\n",
            "",
            ["default:shared: the limit is removed"],
            id="limit removed",
        ),
        pytest.param(
            "without_redis: allow\n",
            "without_redis: allow\n    priority: 2\n    identity: authenticated\n",
            ["default: priority: 5, now 2", "default: identity: claimed, now authenticated"],
            id="policy keys",
        ),
        pytest.param(
            "without_redis: deny", "without_redis: local", ["login: without_redis: deny, now local"], id="without_redis"
        ),
        pytest.param(
            "version: 1\n",
            "version: 1\nmode: shadow\nexpected_enforcers: 3\n",
            ["document: mode: enforce, now shadow", "document: expected_enforcers: 2, now 3"],
            id="document",
        ),
        pytest.param(
            "attributes: [country]",
            "attributes: [country, asn]\nfoldable: [agent]",
            ["attributes: asn is added", "foldable: agent is added"],
            id="declarations",
        ),
        pytest.param("attribute: plan", "attribute: tariff", ["document: tier.attribute: plan, now tariff"], id="tier"),
        pytest.param(
            "capacity: 1000, refill: 1000/1s, reason: x",
            "capacity: 500, refill: 500/1s, reason: y",
            ["search:per_user for user=partner: tightened: capacity 1000 refill 1000/1s, now capacity 500 refill 500/1s"],
            id="override",
        ),
        pytest.param(
            "    until: 2027-01-15T08:00:00Z\n",
            "",
            ["login:per_ip for ip=2001:db8::/64: until: 2027-01-15 08:00:00+00:00, now none"],
            id="override without end",
        ),
        pytest.param(
            "value: partner",
            "value: other",
            [
                "search:per_user for user=partner: the override is removed",
                "search:per_user for user=other: an override is added: capacity 1000 refill 1000/1s",
            ],
            id="override of another",
        ),
    ],
)
def test_change_is_told_in_words(old: str, new: str, lines: list[str]) -> None:
    assert diff((old, new)) == lines


def test_what_envoy_asks_by_another_name_is_told() -> None:
    assert diff(("{ domains: { edge: login }, keys: { x-account: user, geo: country } }", "{ keys: { x-account: user } }")) == [
        "envoy: domains: edge is login, now none",
        "envoy: keys: x-account is user, geo is country, now x-account is user",
    ]


def test_limits_that_are_added_or_in_another_order_are_told() -> None:
    shared, per_user = (
        "      - { name: shared, per: [], capacity: 1000, refill: 1000/1s }\n",
        "      - { name: per_user, per: [user], capacity: 100, refill: 100/1s }\n",
    )
    third = "      - { name: third, per: [], capacity: 9, refill: 9/1s, mode: shadow }\n"
    assert diff((shared + per_user, per_user + third + shared)) == [
        "default:third: a limit is added: capacity 9 refill 9/1s, per nobody, mode shadow",
        "default: the limits are in another order",
    ]


def test_actions_that_another_policy_matches_now_are_told() -> None:
    assert diff(("match: { action: search* }", "match: { action: find* }")) == [
        "search: match: action: search*, now find*",
        "action search*: matched by search, now by default",
        "action find*: matched by default, now by search",
    ]


def test_policy_that_is_added_or_removed_is_told_with_its_actions() -> None:
    policy = "  - name: export\n    match: { action: search/export }\n    limits: []\n"
    added, removed = EVERYTHING.replace("overrides:", f"{policy}overrides:"), EVERYTHING
    assert describe_changes(load(removed), load(added)) == [
        "export: a policy is added, for search/export",
        "action search/export: matched by search, now by export",
    ]
    assert describe_changes(load(added), load(removed)) == [
        "export: the policy is removed",
        "action search/export: matched by export, now by search",
    ]


def test_policies_on_top_that_come_or_go_are_told_for_each_action() -> None:
    assert diff(("match: { action: log* }\n    also: true", "match: { action: log* }")) == [
        "logins: also: true, now false",
        "action log*: matched by default, now by logins",
        "action log*: on top of it everywhere, logins, now everywhere",
        "action login: on top of it everywhere, logins, now everywhere",
    ]
