"""Policies: what is compiled, what matches, and every way to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.document import DocumentError, parse_document, read_document
from enforcer.bucket import Terms
from enforcer.policy import Policies, PoliciesDocument
from tests.unit.enforcer.builders import make_policies

BAD_POLICIES = sorted((Path(__file__).parent.parent / "config" / "bad_policies").glob("*.yaml"))
SHIPPED = Path(__file__).parents[3] / "config" / "policies.yaml"


@pytest.mark.parametrize("path", BAD_POLICIES, ids=lambda path: path.stem)
def test_bad_document_is_refused_with_the_message_beside_it(path: Path) -> None:
    expected = path.with_suffix(".txt").read_text().splitlines()
    with pytest.raises(DocumentError) as refused:
        parse_document(path.read_text(), PoliciesDocument, name=path.name)
    assert list(refused.value.problems) == expected


def test_shipped_policies_are_valid_and_hold_the_documented_limits() -> None:
    policies = Policies.compile(read_document(SHIPPED, PoliciesDocument))
    login = policies.match("login")
    assert [(limit.name, limit.per, limit.terms) for limit in login.limits] == [
        ("per_ip", ("ip",), Terms.of(30, 30, 60_000_000)),
        ("per_user", ("user",), Terms.of(5, 5, 60_000_000)),
    ]
    assert policies.match("search").limits[0].terms == Terms.of(50, 50, 1_000_000)
    assert policies.match("anything").name == "default"


def test_exact_match_comes_before_globs_and_globs_in_order_before_the_catch_all() -> None:
    names = ["*", "api/*", "api/v1/*", "api/v1/users", "*.json", "a*b*c"]
    entries = "\n".join(f"  - {{ name: p{i}, match: {{ action: '{name}' }}, limits: [] }}" for i, name in enumerate(names))
    policies = make_policies(f"version: 1\nsubjects: [user]\npolicies:\n{entries}\n")

    def match(action: str) -> str:
        return names[int(policies.match(action).name[1:])]

    assert match("api/v1/users") == "api/v1/users"
    assert match("api/v1/groups") == "api/*"
    assert match("api/x.json") == "api/*"
    assert match("x.json") == "*.json"
    assert match("xxjson") == "*"
    assert match("a-b-c") == "a*b*c"
    assert match("abc") == "a*b*c"
    assert match("acb") == "*"
    assert match("API/x") == "*"


def test_policies_are_walked_whole_with_the_catch_all_last() -> None:
    policies = make_policies()
    assert [policy.name for policy in policies] == ["login", "shared", "free", "default"]
    assert policies.attribute_kinds == ("ip",)
    assert policies.foldable == ("agent", "country")
    assert policies.expected_enforcers == 2


def test_modes_and_absence_are_compiled() -> None:
    shared = make_policies().match("shared")
    assert [(limit.label, limit.is_shadow) for limit in shared.limits] == [("shared:everybody", False), ("shared:trial", True)]
    assert shared.without_redis == "deny"
    assert make_policies().match("login").without_redis == "local"


def test_version_follows_the_text() -> None:
    one, other = make_policies(), make_policies(make_policies.__defaults__[0] + "# changed\n")  # type: ignore[index]
    assert len(one.version) == 12
    assert one.version == make_policies().version != other.version
