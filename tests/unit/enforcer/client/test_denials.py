"""The memory of denials: what is kept, for how long, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enforcer.client import denials
from enforcer.client.decision import Decision, LimitStatus
from enforcer.client.denials import Denials, make_key
from tests.unit.enforcer.client.answers import banned, read

KEY = make_key("alice", "login", {"ip": "203.0.113.7", "agent": "x"})
REFUSED = LimitStatus("login", "per_user", 5, 0, 600, 3000, is_refused=True, is_shadow=False)
WIDER = LimitStatus("login", "per_ip", 30, 9, 0, 2000, is_refused=False, is_shadow=False)
TRIAL = LimitStatus("login", "trial", 5, 0, 600, 3000, is_refused=True, is_shadow=True)
DENIED = Decision("deny", "limit", cost=2, limits=(WIDER, REFUSED, TRIAL), retry_after_ms=600)


def remembering(decision: Decision = DENIED, sent_s: float = 100.0) -> Denials:
    memory = Denials()
    memory.remember(KEY, decision, sent_s)
    return memory


def test_a_denial_is_remembered_until_its_cost_could_pass() -> None:
    memory = remembering()
    assert memory.find(KEY, 2, 100.5) == replace(
        DENIED,
        limits=(
            replace(WIDER, reset_after_ms=1500),
            replace(REFUSED, retry_after_ms=100, reset_after_ms=2500),
            replace(TRIAL, retry_after_ms=100, reset_after_ms=2500),
        ),
        retry_after_ms=100,
        is_remembered=True,
    )
    assert memory.find(KEY, 2, 100.5989) is not None
    assert memory.find(KEY, 2, 100.5991) is None


def test_a_denial_is_remembered_for_a_second_at_most() -> None:
    memory = remembering(replace(DENIED, retry_after_ms=12_000))
    assert memory.find(KEY, 2, 100.999) is not None
    assert memory.find(KEY, 2, 101.0) is None


def test_a_lower_cost_may_pass_and_a_higher_one_cannot() -> None:
    memory = remembering()
    assert memory.find(KEY, 1, 100.1) is None
    remembered = memory.find(KEY, 3, 100.1)
    assert remembered is not None
    assert remembered.cost == 3


@pytest.mark.parametrize(
    "decision",
    [
        pytest.param(read(banned()), id="ban"),
        pytest.param(Decision("allow", "ok"), id="allowed"),
        pytest.param(replace(DENIED, reason="throttled"), id="throttled"),
        pytest.param(replace(DENIED, reason="open"), id="open"),
        pytest.param(replace(DENIED, is_degraded=True), id="degraded"),
        pytest.param(replace(DENIED, is_cached=True), id="cached by the enforcer"),
        pytest.param(replace(DENIED, factor_per_mille=999), id="at a factor"),
        pytest.param(replace(DENIED, reason="no_decision", failure="unavailable"), id="no decision"),
    ],
)
def test_only_a_limits_own_fresh_denial_is_kept(decision: Decision) -> None:
    assert remembering(decision).find(KEY, 9, 100.0) is None


def test_other_users_actions_and_attributes_are_asked_about() -> None:
    memory = remembering()
    assert memory.find(make_key("alice", "login", {"agent": "x", "ip": "203.0.113.7"}), 2, 100.1) is not None
    for other in (("bob", "login", {}), ("alice", "search", {}), ("alice", "login", {"ip": "203.0.113.8", "agent": "x"})):
        assert memory.find(make_key(*other), 2, 100.1) is None


def test_what_was_suppressed_is_told_once_with_the_limits_that_refused_for_real() -> None:
    memory = remembering()
    for _ in range(3):
        memory.find(KEY, 2, 100.1)
    assert memory.take_suppressed(KEY, 100.2) == (3, ("login:per_user",))
    assert memory.take_suppressed(KEY, 100.2) == (0, ())
    assert memory.find(KEY, 2, 100.3) is not None  # taking the count forgets nothing
    assert memory.take_suppressed(KEY, 104.0) == (1, ("login:per_user",))


def test_what_was_suppressed_long_ago_is_dropped() -> None:
    memory = remembering()
    memory.find(KEY, 2, 100.1)
    assert memory.take_suppressed(KEY, 105.2) == (0, ())


def test_a_denial_of_a_higher_cost_does_not_replace_a_lower_one() -> None:
    memory = remembering()
    memory.remember(KEY, replace(DENIED, cost=5, retry_after_ms=900), 100.1)
    assert memory.find(KEY, 2, 100.2) is not None
    memory.remember(KEY, replace(DENIED, cost=1), 100.2)
    assert memory.find(KEY, 1, 100.3) is not None


def test_memory_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denials, "MOST_ENTRIES", 2)
    memory = Denials()
    keys = [make_key(user, "login", {}) for user in "abc"]
    for key in keys:
        memory.remember(key, DENIED, 100.0)
    assert [memory.find(key, 2, 100.1) is not None for key in keys] == [False, True, True]
