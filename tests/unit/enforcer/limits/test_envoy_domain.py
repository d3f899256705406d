"""Requests find their limits in a domain's document by the rules of envoyproxy/ratelimit."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.limits.bucket import LARGEST_EXACT
from enforcer.limits.envoy_document import parse_domain
from enforcer.limits.envoy_domain import Node, compile_domain, fit_terms, list_limits, name_kind

DOCUMENT = """
domain: shop
descriptors:
  - key: service
    value: auth
    descriptors:
      - key: user
        rate_limit: { unit: second, requests_per_unit: 5 }
      - key: user
        value: robot
        rate_limit: { unit: second, requests_per_unit: 10 }
  - key: client
    rate_limit: { unit: minute, requests_per_unit: 20 }
  - key: client
    value: partner
    rate_limit: { unit: minute, requests_per_unit: 30 }
  - key: client
    value: friend
  - key: plan
    value: gold
    rate_limit: { unit: day, requests_per_unit: 15 }
    descriptors:
      - { key: region, value: eu, rate_limit: { unit: day, requests_per_unit: 25 } }
  - key: free
    rate_limit: { unlimited: true }
  - key: file
    value: docs/*
    rate_limit: { unit: hour, requests_per_unit: 1 }
  - key: file
    value: docs/a*
    rate_limit: { unit: hour, requests_per_unit: 2 }
  - key: file
    value: docs/all
    rate_limit: { unit: hour, requests_per_unit: 3 }
  - key: file
    rate_limit: { unit: hour, requests_per_unit: 4 }
  - key: shared
    value: "*/tmp"
    share_threshold: true
    rate_limit: { unit: hour, requests_per_unit: 5 }
    descriptors:
      - { key: who, rate_limit: { unit: hour, requests_per_unit: 6 } }
  - key: user_id
    value: alice
    rate_limit: { unit: hour, requests_per_unit: 7 }
  - key: action
    shadow_mode: true
    rate_limit: { unit: hour, requests_per_unit: 8 }
"""


class Pair(NamedTuple):
    key: str
    value: str


def compile_text(text: str) -> Node:
    return compile_domain([parse_domain(text, name="x").model])


SHOP = compile_text(DOCUMENT)


def find(*pairs: tuple[str, str], root: Node = SHOP) -> int | None:
    """How many requests the limit for these entries allows; None where there is none."""
    node = root.match([Pair(*pair) for pair in pairs]).node
    return None if node is None or node.limit is None else node.limit.terms.capacity


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        pytest.param([("client", "anybody")], 20, id="a key without a value takes any"),
        pytest.param([("client", "")], 20, id="also none"),
        pytest.param([("client", "partner")], 30, id="a value goes before"),
        pytest.param([("client", "friend")], None, id="a value without a limit is let through"),
        pytest.param([("service", "auth"), ("user", "alice")], 5, id="nested"),
        pytest.param([("service", "auth"), ("user", "robot")], 10, id="nested value"),
        pytest.param([("service", "auth")], None, id="a step without a limit"),
        pytest.param([("service", "mail"), ("user", "alice")], None, id="another value above"),
        pytest.param([("user", "alice"), ("service", "auth")], None, id="another order"),
        pytest.param([("plan", "gold")], 15, id="a limit above others"),
        pytest.param([("plan", "gold"), ("region", "eu")], 25, id="the limit below it"),
        pytest.param([("plan", "gold"), ("region", "us")], None, id="not the one above for a deeper request"),
        pytest.param([("plan", "gold"), ("region", "eu"), ("x", "y")], None, id="nothing deeper than the document"),
        pytest.param([("file", "docs/all")], 3, id="a value goes before patterns"),
        pytest.param([("file", "docs/any")], 1, id="of patterns the first of the document"),
        pytest.param([("file", "other")], 4, id="any value after patterns"),
        pytest.param([("shared", "a/tmp")], 5, id="a star at the beginning"),
        pytest.param([("shared", "a/tmp"), ("who", "x")], 6, id="below a pattern"),
        pytest.param([("shared", "a/tmp/b")], None, id="a pattern is matched whole"),
        pytest.param([("free", "x")], None, id="unlimited"),
        pytest.param([("unknown", "x")], None, id="unknown key"),
        pytest.param([], None, id="no entries"),
    ],
)
def test_most_specific_descriptor_is_found(pairs: list[tuple[str, str]], found: int | None) -> None:
    assert find(*pairs) == found


def test_limit_is_named_by_its_path_and_its_buckets_by_what_the_path_leaves_open() -> None:
    found = {limit.name: limit.per for limit in list_limits(SHOP)}
    assert found == {
        "service_auth.user": ("user",),
        "service_auth.user_robot": ("user",),
        "client": ("client",),
        "client_partner": (),
        "plan_gold": (),
        "plan_gold.region_eu": (),
        "file_docs/*": ("file",),
        "file_docs/a*": ("file",),
        "file_docs/all": (),
        "file": ("file",),
        "shared_*/tmp": (),
        "shared_*/tmp.who": ("who",),
        "user_id_alice": ("user",),  # a subject: who refuses is told apart also where the document names it
        "action": ("%61ction",),
    }
    assert {limit.policy for limit in list_limits(SHOP)} == {"shop"}
    assert [limit.name for limit in list_limits(SHOP) if limit.is_shadow] == ["action"]


def test_unlimited_is_told_from_unmatched() -> None:
    free = SHOP.match([Pair("free", "x")]).node
    assert free is not None
    assert free.is_unlimited
    assert SHOP.match([Pair("unknown", "x")]).node is None


def test_match_tells_whether_other_values_end_there_too() -> None:
    root = compile_text("""
domain: a
descriptors:
  - { key: ip, rate_limit: { unit: day, requests_per_unit: 1 } }
  - { key: path, value: /, rate_limit: { unit: day, requests_per_unit: 1 } }
  - { key: path, rate_limit: { unit: day, requests_per_unit: 1 } }
""")
    assert root.match([Pair("ip", "x")]).is_for_any
    assert not root.match([Pair("path", "x")]).is_for_any
    assert not SHOP.match([Pair("client", "x")]).is_for_any
    assert root.match([Pair("none", "x")]) == (None, True)


def test_replaces_and_names_are_kept() -> None:
    root = compile_text("""
domain: a
descriptors:
  - { key: k, rate_limit: { unit: day, requests_per_unit: 1, name: general } }
  - { key: l, rate_limit: { unlimited: true, replaces: [{ name: general }, { name: other }] } }
""")
    found = [(node.name, node.replaces) for key in ("k", "l") if (node := root.match([Pair(key, "x")]).node) is not None]
    assert found == [("general", ()), ("", ("general", "other"))]


def test_long_and_odd_names_are_bounded_and_stay_apart() -> None:
    root = compile_text(
        f"domain: a\ndescriptors:\n  - {{ key: {'k' * 300}, rate_limit: {{ unit: day, requests_per_unit: 1 }} }}\n"
    )
    (limit,) = list_limits(root)
    assert len(limit.name) <= 128
    assert name_kind("k" * 300) != name_kind("k" * 301)
    assert name_kind("a b:c{d}") == "a%20b%3Ac%7Bd%7D"
    assert (name_kind("user_id"), name_kind("remote_address"), name_kind("path")) == ("user", "ip", "path")


@given(
    requests=st.one_of(st.integers(1, 2**32 - 1), st.sampled_from([1, 5, 1000, 10_000_000, 2**31])),
    period_s=st.sampled_from([1, 60, 3_600, 86_400, 604_800, 2_592_000, 31_536_000, 100 * 31_536_000]),
)
def test_any_rate_fits_exactly_and_the_bucket_is_as_large_as_can_be_counted(requests: int, period_s: int) -> None:
    terms = fit_terms(requests, period_s)
    assert terms.refill * period_s * 1_000_000 == requests * terms.period_ticks * terms.tick_us
    assert terms.capacity_units <= LARGEST_EXACT
    assert terms.capacity == requests or terms.capacity >= 2_000
    if requests <= 100_000 and period_s <= 31_536_000:
        assert terms.capacity == requests


def test_round_numbers_of_any_size_fit_whole() -> None:
    for requests, period_s in [(10_000_000, 2_592_000), (1_000_000_000, 86_400), (4_000_000_000, 3_600), (100_000, 31_536_000)]:
        assert fit_terms(requests, period_s).capacity == requests


def test_0_requests_refuse_everything() -> None:
    assert (fit_terms(0, 60).capacity, fit_terms(0, 60).capacity_units) == (0, 0)
