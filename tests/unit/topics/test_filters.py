from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lua.keys import name_subject
from topics.events import (
    AbuseState,
    Ban,
    DecisionEvent,
    Fold,
    FoldsEvent,
    GapEvent,
    HeartbeatEvent,
    OutcomeEvent,
    SubjectEvent,
    VerdictEvent,
)
from topics.filters import Filters, matches_value, parse_moment_ms, parse_span_ms

DECISION = DecisionEvent(
    source="a",
    seq=1,
    decided_at_ms=1,
    user_id="al ice",
    action="login",
    attributes={"ip": "203.0.113.7"},
    policy="login",
    policy_version="1",
    outcome="deny",
    reason="limit",
)
GAP = GapEvent(source="a", ranges=((1, 2),), at_ms=1, reason="buffer_full")
OUTCOME = OutcomeEvent(source="a", n=1, action="login", second_ms=1000, count=1)


def verdict(subject: str) -> VerdictEvent:
    return VerdictEvent(
        verdict_id="v", subject=subject, penalty="ban", result="applied", rule="brute_force", at_ms=1, applied_at_ms=1
    )


def fold(subject: str, action: str = "login") -> Fold:
    return Fold(subject=subject, action=action, policy="login", limit="per_user", count=1, first_ms=1, last_ms=1)


@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(user="al ice"),
        Filters(subject="user=al ice"),
        Filters(subject="ip=203.0.113.7"),
        Filters(action="login", outcome="deny", reason="limit", policy="login"),
    ],
)
def test_decision_that_matches_all_passes(filters: Filters) -> None:
    assert filters.select(DECISION) is DECISION


@pytest.mark.parametrize(
    "filters",
    [
        Filters(user="alice"),
        Filters(subject="ip=203.0.113.8"),
        Filters(subject="tenant=x"),
        Filters(action="search"),
        Filters(outcome="allow"),
        Filters(user="al ice", reason="banned"),
        Filters(policy="search"),
    ],
)
def test_decision_that_differs_in_one_thing_does_not_pass(filters: Filters) -> None:
    assert filters.select(DECISION) is None


def test_only_the_folds_that_match_are_left() -> None:
    event = FoldsEvent(source="a", n=1, at_ms=1, folds=(fold("user=bob"), fold("user=al%20ice"), fold("ip=203.0.113.7")))
    chosen = Filters(user="al ice").select(event)
    assert isinstance(chosen, FoldsEvent)
    assert [each.subject for each in chosen.folds] == ["user=al%20ice"]
    assert Filters(user="carol").select(event) is None


@pytest.mark.parametrize("asked", ["user=al ice", "user=al%20ice"])
def test_a_subject_may_be_asked_for_escaped_or_not(asked: str) -> None:
    assert Filters(subject=asked).select(verdict("user=al%20ice"))
    assert not Filters(subject=asked).select(verdict("ip=al%20ice"))


def test_a_rule_is_found_in_verdicts_and_in_the_bans_of_subjects() -> None:
    ban = Ban(until_ms=9, level=1, rule="brute_force", verdict_id="v", scope=("login",))
    state = SubjectEvent(subject="user=a", state=AbuseState(rev=1, bans=(ban,)))
    for event in (state, verdict("user=a")):
        assert Filters(rule="brute_force").select(event)
        assert not Filters(rule="stuffing").select(event)


def test_an_announced_gap_passes_only_where_nothing_is_asked_for() -> None:
    assert Filters().select(GAP) is GAP
    assert Filters(user="alice").select(GAP) is None


def test_outcomes_are_chosen_by_action() -> None:
    assert Filters(action="login").select(OUTCOME) is OUTCOME
    assert Filters(action="search").select(OUTCOME) is None


def test_marks_never_pass() -> None:
    assert Filters().select(HeartbeatEvent(source="a", seq=1, at_ms=1)) is None


# Surrogates cannot stand in an event: JSON in UTF-8 has none.
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_every_user_id_is_found_under_the_name_that_keys_give_it(user: str) -> None:
    assert Filters(user=user).select(verdict(name_subject("user", user)))


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_user_is_taken_for_another(one: str, other: str) -> None:
    assert matches_value(name_subject("user", one).removeprefix("user="), other) == (one == other)


@pytest.mark.parametrize(
    ("topic", "filters", "message"),
    [
        ("verdicts", Filters(outcome="deny"), "--outcome does not apply to verdicts, which knows --rule, --subject, --user"),
        ("dead_letters", Filters(user="a"), "--user does not apply to dead_letters, which knows no filter"),
        ("decisions", Filters(outcome="maybe"), "--outcome 'maybe' is none of allow, deny, ban"),
        ("decisions", Filters(reason="why"), "--reason 'why' is none of ok, limit, banned, throttled, open"),
        ("verdicts", Filters(subject="alice"), "--subject 'alice' is not of the form kind=value, as in user=alice"),
    ],
)
def test_a_filter_that_makes_no_sense_is_named_with_what_would(topic: str, filters: Filters, message: str) -> None:
    with pytest.raises(ValueError, match="--") as error:
        filters.check(topic)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "span_ms"), [("250ms", 250), ("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("7d", 604_800_000)]
)
def test_spans_of_time_are_read(text: str, span_ms: int) -> None:
    assert parse_span_ms(text) == span_ms


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5x", "1.5h", "5 m", "٣m", "9999999999d"])
def test_other_spans_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a span of time"):
        parse_span_ms(text)


def test_moments_are_spans_before_now_or_times() -> None:
    assert parse_moment_ms("90m", 1_800_000_000_000) == 1_800_000_000_000 - 5_400_000
    assert parse_moment_ms("2027-01-15T08:00:00Z", 0) == parse_moment_ms("2027-01-15T08:00", 0) == 1_800_000_000_000
    assert parse_moment_ms("2027-01-15T09:00:00+01:00", 0) == 1_800_000_000_000
