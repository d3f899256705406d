"""What rules can refer to in the policies document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.declared import DeclaredPolicies, may_meet
from config.document import read_document

POLICIES = {
    "subjects": ["user", "ip"],
    "overrides": "whatever the enforcer makes of it",
    "policies": [
        {"name": "all", "match": {"action": "*"}, "limits": []},
        {"name": "api", "match": {"action": "api/*"}, "limits": []},
        {"name": "items", "match": {"action": "api/items"}, "limits": []},
        {"name": "everywhere", "match": {"action": "*"}, "also": True, "limits": []},
    ],
}


def test_shipped_policies_are_read() -> None:
    declared = read_document(Path("config/policies.yaml"), DeclaredPolicies).model
    [login] = declared.list_for("login")
    assert (declared.subjects, login.name, login.identity) == (("user", "ip"), "login", "claimed")
    assert ("per_ip_day", ("ip",), True) in [(limit.name, limit.per, limit.refuses) for limit in login.limits]


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("api/items", {"items", "everywhere"}),
        ("api/other", {"api", "everywhere"}),
        ("search", {"all", "everywhere"}),
        ("api/i*", {"all", "api", "items", "everywhere"}),
        ("s*", {"all", "everywhere"}),
    ],
)
def test_action_is_decided_by_one_policy_and_a_glob_by_all_that_share_an_action_with_it(glob: str, names: set[str]) -> None:
    assert {policy.name for policy in DeclaredPolicies.model_validate(POLICIES).list_for(glob)} == names


@given(st.text("ab*", max_size=6), st.text("ab", max_size=6))
def test_glob_and_text_meet_where_the_glob_matches(glob: str, text: str) -> None:
    is_match = re.fullmatch(".*".join(map(re.escape, glob.split("*"))), text) is not None
    assert may_meet(glob, text) is may_meet(text, glob) is is_match


@given(st.text("ab*", max_size=4), st.text("ab*", max_size=4), st.text("ab", max_size=6))
def test_globs_that_match_one_text_meet(one: str, other: str, text: str) -> None:
    if may_meet(one, text) and may_meet(other, text):
        assert may_meet(one, other)


@pytest.mark.parametrize(("one", "other"), [("a*", "b*"), ("*a", "*b"), ("a*a", "a"), ("a*", "")])
def test_globs_without_a_common_text_do_not_meet(one: str, other: str) -> None:
    assert not may_meet(one, other)
