"""Files of envoyproxy/ratelimit and policies are told apart, and become what requests are planned by."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.document import DocumentError
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.envoy.rls_request import plan_payload, plan_request
from enforcer.limits.envoy_files import compile_files, is_domain, load_policies
from ratchet.envoy import descriptor_pb2, rls_pb2
from tests.unit.enforcer.builders import POLICIES, make_check

SHOP = """
domain: shop
descriptors:
  - key: path
    value: /pay
    rate_limit: { unit: minute, requests_per_unit: 3, name: pay }
  - key: path
    value: /files/*
    share_threshold: true
    rate_limit: { unit: minute, requests_per_unit: 4 }
  - key: path
    rate_limit: { unit: minute, requests_per_unit: 5 }
  - key: user_id
    rate_limit: { unit: minute, requests_per_unit: 6 }
  - key: plan
    descriptors:
      - key: remote_address
        rate_limit: { unit: minute, requests_per_unit: 7 }
  - key: vip
    rate_limit: { unlimited: true, replaces: [{ name: pay }] }
  - key: banned
    rate_limit: { unit: second, requests_per_unit: 0 }
  - key: odd key
    shadow_mode: true
    rate_limit: { unit: year, requests_per_unit: 1 }
"""

Pairs = list[tuple[str, str]]


def make_request(*descriptors: Pairs, domain: str = "shop") -> rls_pb2.RateLimitRequest:
    entry = descriptor_pb2.RateLimitDescriptor.Entry
    return rls_pb2.RateLimitRequest(
        domain=domain,
        descriptors=[
            descriptor_pb2.RateLimitDescriptor(entries=[entry(key=key, value=value) for key, value in pairs])
            for pairs in descriptors
        ],
    )


def plan(*descriptors: Pairs, domain: str = "shop") -> Plan:
    return plan_request(make_request(*descriptors, domain=domain), Planner(compile_files([("shop.yaml", SHOP)])))


@pytest.mark.parametrize(
    ("pairs", "keys"),
    [
        ([("path", "/pay")], ["rate_limit:{global}:shop:path_/pay"]),
        ([("path", "/files/a")], ["rate_limit:{global}:shop:path_/files/*"]),
        ([("path", "/x y")], ["rate_limit:{path=/x%20y}:shop:path"]),
        ([("user_id", "bob")], ["abuse:{user=bob}", "rate_limit:{user=bob}:shop:user_id"]),
        (
            [("plan", "gold"), ("remote_address", "::1")],
            ["abuse:{ip=::/64}", "rate_limit:{plan=gold}&ip=::/64:shop:plan.remote_address"],
        ),
        ([("odd key", "x")], ["rate_limit:{odd%20key=x}:shop:odd%20key:shadow"]),
        ([("vip", "x")], []),
        ([("remote_address", "10.0.0.1")], ["abuse:{ip=10.0.0.1}"]),
    ],
)
def test_descriptor_asks_for_its_own_bucket_and_the_bans_of_its_subjects(pairs: Pairs, keys: list[str]) -> None:
    assert list(plan(pairs).keys) == keys


def test_each_descriptor_has_its_limit_and_one_that_replaces_drops_the_other() -> None:
    planned = plan([("path", "/pay")], [("user_id", "bob")], [("none", "")])
    assert [limit.label for limit in planned.limits] == ["shop:path_/pay", "shop:user_id"]
    assert planned.template.positions == ((0,), (1,), ())
    replaced = plan([("path", "/pay")], [("user_id", "bob")], [("vip", "yes")])
    assert [limit.label for limit in replaced.limits] == ["shop:user_id"]
    assert replaced.template.positions == ((), (0,), ())
    assert replaced.template.unlimited == frozenset({2})


def test_request_in_another_domain_and_a_check_of_ours_are_not_limited() -> None:
    assert plan([("path", "/pay")], domain="other").limits == ()
    assert Planner(compile_files([("shop.yaml", SHOP)])).plan(make_check("bob", "shop")).limits == ()


def test_requests_are_planned_from_bytes_as_from_messages_also_where_values_matter() -> None:
    planner = Planner(compile_files([("shop.yaml", SHOP)]))
    asked: list[Pairs] = [
        [("path", "/pay")], [("path", "/pax")], [("path", "/xyz")], [("user_id", "bob")], [("user_id", "eve")],
        [("plan", "gold"), ("remote_address", "10.0.0.1")], [("plan", "jade"), ("remote_address", "10.0.0.2")],
    ]  # fmt: skip
    for pairs in [*asked, *asked]:
        request = make_request(pairs)
        by_bytes, expected = plan_payload(request.SerializeToString(), planner), plan_request(request, planner)
        assert (by_bytes.keys, by_bytes.template, by_bytes.check) == (expected.keys, expected.template, expected.check)
    known = [planner.requests.plan(make_request(pairs).SerializeToString()) is not None for pairs in asked]
    assert known == [False, False, False, True, True, True, True]


def test_kinds_of_document_are_told_apart(tmp_path: Path) -> None:
    ours, theirs, folder = tmp_path / "policies.yaml", tmp_path / "shop.yaml", tmp_path / "folder"
    ours.write_text(POLICIES)
    theirs.write_text(SHOP)
    folder.mkdir()
    (folder / "a.yml").write_text(SHOP)
    (folder / "b.yaml").write_text(
        "domain: shop\ndescriptors: [{ key: more, rate_limit: { unit: day, requests_per_unit: 1 } }]"
    )
    (folder / ".hidden.yaml").write_text("nonsense")
    (folder / "notes.txt").write_text("nonsense")
    assert not load_policies(ours).domains
    assert load_policies(theirs).domains["shop"].children.keys() < load_policies(folder).domains["shop"].children.keys()
    assert len({load_policies(path).version for path in (ours, theirs, folder)}) == 3
    assert not is_domain("'")
    assert is_domain('{"domain": "a", "descriptors": []}')
    assert not is_domain("version: 1\npolicies:\n  - domain: a\n")


def test_problems_of_all_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("domain: a\ndescriptors: [{ key: k }]")
    (tmp_path / "b.yaml").write_text("domain: a\ndescriptors: [{ key: k }]")
    (tmp_path / "c.yaml").write_text("domain: ''")
    with pytest.raises(DocumentError) as refused:
        load_policies(tmp_path)
    assert refused.value.problems == (
        f"{tmp_path}/b.yaml:1: descriptors: 'k' stands in an earlier file of the domain 'a' too",
        f"{tmp_path}/c.yaml:1: domain: string should have at least 1 character, not ''",
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocumentError, match=r"no file here ends in \.yaml or \.yml"):
        load_policies(tmp_path / "empty")
    with pytest.raises(DocumentError, match="cannot be read"):
        load_policies(tmp_path / "absent.yaml")
