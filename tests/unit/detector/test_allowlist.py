"""Who is exempt, and what ends with it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from detector.allowlist import Allowlist, find_subject, has_bans_to_end, identify_lift, make_lift_event
from detector.rules import Exemption
from topics.events import AbuseState, Ban

T0 = 1_800_000_000_000


def exempt(value: str, kind: str = "ip", **changes: Any) -> Exemption:
    return Exemption.model_validate({"kind": kind, "value": value, "reason": "load test", "actor": "sre"} | changes)


@pytest.mark.parametrize(
    ("exemption", "subject", "is_exempt"),
    [
        (exempt("203.0.113.7"), "ip=203.0.113.7", True),
        (exempt("203.0.113.7"), "ip=203.0.113.8", False),
        (exempt("203.0.113.7"), "user=203.0.113.7", False),
        (exempt("203.0.113.0/24"), "ip=203.0.113.200", True),
        (exempt("203.0.113.0/24"), "ip=203.0.114.1", False),
        (exempt("203.0.113.0/24"), "ip=2001:db8::/64", False),
        (exempt("203.0.113.0/24"), "ip=unknown", False),
        (exempt("203.0.113.0/24"), "user=203.0.113.1", False),
        (exempt("2001:db8::1"), "ip=2001:db8::/64", True),
        (exempt("2001:db8::1"), "ip=2001:db8:0:1::/64", False),
        (exempt("2001:db8::/48"), "ip=2001:db8:0:1::/64", True),
        (exempt("::ffff:203.0.113.7"), "ip=203.0.113.7", True),
        (exempt("alice smith", "user"), "user=alice%20smith", True),
        (exempt("alice", "user"), "user=bob", False),
    ],
)
def test_exempt_are_the_subject_itself_and_all_of_a_network(exemption: Exemption, subject: str, is_exempt: bool) -> None:
    assert Allowlist([exemption]).find(subject, T0) == (exemption if is_exempt else None)


@pytest.mark.parametrize("value", ["203.0.113.7", "203.0.113.0/24"])
def test_exemption_ends_and_another_may_go_on(value: str) -> None:
    until = datetime.fromtimestamp(T0 / 1000, UTC)
    ending, lasting = exempt(value, until=until), exempt(value, reason="for good")
    assert Allowlist([ending]).find("ip=203.0.113.7", T0 - 1) == ending
    assert Allowlist([ending]).find("ip=203.0.113.7", T0) is None
    assert Allowlist([ending, lasting]).find("ip=203.0.113.7", T0) == lasting


@pytest.mark.parametrize("value", ["203.0.113.7/24", "office", "2001:db8::/96", "203.0.113.0/33"])
def test_what_is_no_address_and_no_network_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="allowed: "):
        exempt(value)


def test_exempt_now_are_those_who_are_named_and_those_seen_in_a_network() -> None:
    named, network, over = (
        exempt("alice", "user"),
        exempt("203.0.113.0/24"),
        exempt("bob", "user", until="2020-01-01T00:00:00Z"),
    )
    seen = ["ip=203.0.113.7", "ip=198.51.100.1", "user=carol"]
    assert Allowlist([named, network, over]).list_subjects(seen, T0) == {"user=alice": named, "ip=203.0.113.7": network}
    assert find_subject(network) == ""


def make_state(*bans: Ban) -> AbuseState:
    return AbuseState(rev=7, score=1000, score_at_ms=T0, half_life_ms=60_000, level=3, bans=bans)


BY_RULE = Ban(until_ms=T0 + 60_000, level=3, rule="brute_force", verdict_id="v", scope=("login",))
BY_PERSON = Ban(until_ms=T0 + 60_000, level=0, rule="", verdict_id="w", scope=("*",))


@pytest.mark.parametrize(
    ("bans", "now_ms", "has"),
    [((BY_RULE,), T0, True), ((BY_RULE,), T0 + 60_000, False), ((BY_RULE, BY_PERSON), T0, False), ((), T0, False)],
)
def test_bans_of_rules_are_to_end_unless_a_person_s_ban_lasts(bans: tuple[Ban, ...], now_ms: int, has: bool) -> None:
    assert has_bans_to_end(make_state(*bans), now_ms) is has


def test_same_bans_end_under_one_name_and_other_bans_under_another() -> None:
    exemption, state = exempt("203.0.113.7"), make_state(BY_RULE)
    name = identify_lift("ip=203.0.113.7", exemption, state)
    assert name == identify_lift("ip=203.0.113.7", exemption, state)
    other = BY_RULE.model_copy(update={"verdict_id": "x"})
    assert name != identify_lift("ip=203.0.113.7", exemption, make_state(other))
    assert name != identify_lift("ip=203.0.113.7", exempt("203.0.113.7", actor="else"), state)


def test_end_of_bans_is_told_with_actor_reason_and_the_score_that_is_left() -> None:
    event = make_lift_event("ip=203.0.113.7", exempt("203.0.113.7"), "v", make_state(), T0 + 60_000)
    assert (event.penalty, event.actor, event.reason, event.rev) == ("lift", "sre", "load test", 7)
    assert event.score_before == event.score_after == 500
