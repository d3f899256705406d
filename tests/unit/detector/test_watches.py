"""Rules, compiled to what is counted."""

from __future__ import annotations

from typing import Any

import pytest

from detector.rules import Rules
from detector.watches import Watch, compile_watches
from topics.wire import Fold

LADDER = {
    "half_life": "1h",
    "rungs": [
        {"name": "warn", "penalty": "warn", "duration": "1m"},
        {"name": "ban", "penalty": "ban", "duration": "1m"},
    ],
}
SOFT = {"half_life": "1h", "rungs": [{"name": "slow", "penalty": "tighten", "factor": 0.5, "duration": "1m"}]}


def compile_rule(**fields: Any) -> tuple[Watch, ...]:
    rule = {
        "name": "it",
        "by": "user",
        "match": {"action": "login"},
        "threshold": 10,
        "window": "60s",
        "start": "warn",
    } | fields
    return compile_watches(Rules.model_validate({"version": 1, "ladder": LADDER, "ladders": {"soft": SOFT}, "rules": [rule]}))


def make_fold(attributes: dict[str, str] | None = None, limit: str = "per_user") -> Fold:
    return Fold("user=a", "login", "login", limit, 1, 0, 0, attributes=attributes or {})


def test_each_threshold_is_a_watch_with_a_key_and_a_start_of_its_own() -> None:
    watches = compile_rule(harder=[{"threshold": 50, "start": "ban"}], cool_down="5m", most_admitted=0.25)
    assert [(watch.key.partition("@")[0], watch.threshold, watch.start) for watch in watches] == [
        ("it", 10, 1),
        ("it+1", 50, 2),
    ]
    assert {(watch.window_ms, watch.width_ms, watch.cool_down_ms, watch.most_admitted) for watch in watches} == {
        (60_000, 5_000, 300_000, 250)
    }


def test_start_is_a_rung_of_the_rule_s_own_ladder() -> None:
    [watch] = compile_rule(ladder="soft", start="slow")
    assert watch.start == 1


@pytest.mark.parametrize(
    ("attributes", "is_covered"),
    [({"agent": "curl/8"}, True), ({"agent": "firefox"}, False), ({}, False), ({"agent": "curl/8", "country": "xx"}, True)],
)
def test_attributes_that_a_rule_names_have_to_be_shared_and_to_match(attributes: dict[str, str], is_covered: bool) -> None:
    [watch] = compile_rule(match={"action": "login", "attributes": {"agent": "curl*"}})
    assert watch.covers(make_fold(attributes)) is is_covered


def test_limit_that_a_rule_names_has_to_match() -> None:
    [watch] = compile_rule(match={"action": "login", "limit": "per_ip"})
    assert not watch.covers(make_fold())
    assert watch.covers(make_fold(limit="per_ip"))


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"threshold": 7}, True),
        ({"cool_down": "5m"}, True),
        ({"mode": "shadow"}, True),
        ({"window": "61s"}, False),
        ({"match": {"action": "log*"}}, False),
        ({"by": "ip"}, False),
        ({"by": "ip", "counts": "users"}, False),
        ({"most_admitted": 0.5}, False),
    ],
)
def test_key_of_a_watch_changes_with_what_its_windows_hold(change: dict[str, Any], is_same: bool) -> None:
    assert (compile_rule(**change)[0].key == compile_rule()[0].key) is is_same
