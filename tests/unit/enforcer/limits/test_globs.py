"""Patterns with stars."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.limits.globs import matches


@pytest.mark.parametrize(
    ("pattern", "text", "is_matched"),
    [
        ("foo", "foo", True),
        ("foo", "foo1", False),
        ("foo*", "foo", True),
        ("foo*", "foobar", True),
        ("foo*", "fo", False),
        ("*bar", "foobar", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("/api/*/action", "/api/1/action", True),
        ("/api/*/action", "/api/1/other", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "acb", False),
        ("a*bc*c", "abc", False),
        ("*", "", True),
    ],
)
def test_star_stands_for_any_run(pattern: str, text: str, is_matched: bool) -> None:
    assert matches(pattern.split("*"), text) is is_matched


@given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_pattern_matches_what_the_same_regular_expression_does(pattern: str, text: str) -> None:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert matches(pattern.split("*"), text) is bool(re.fullmatch(expression, text))
