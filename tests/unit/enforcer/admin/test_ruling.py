from __future__ import annotations

from dataclasses import replace

from enforcer.admin.ruling import KEEP_MS, Ruling, find_expiry_ms, identify_change, make_ruling_event, rule
from topics.events import AbuseState, Ban

T0 = 1_800_000_000_000
HOUR_MS = 3_600_000
BAN = Ruling("v1", "d", "user=m", "ban", "alice", "stole a card", ("login",), 60_000)
LIFT = Ruling("v2", "d", "user=m", "lift", "alice", "it was a test")
FORGIVE = replace(LIFT, penalty="forgive")
HELD = AbuseState(
    rev=7,
    score=2000,
    score_at_ms=T0 + HOUR_MS,
    half_life_ms=HOUR_MS,
    level=4,
    offences=2,
    factor=500,
    factor_until_ms=T0 + 5,
    factor_verdict="f",
    warn_until_ms=T0 + 6,
    warn_rule="brute_force",
    warn_verdict="w",
    bans=(Ban(until_ms=T0 + HOUR_MS, level=4, rule="brute_force", verdict_id="b", scope=("login", "search")),),
)


def test_ban_of_a_person_stands_beside_a_longer_one_and_is_no_strike() -> None:
    finding, state = rule(HELD, BAN, now_ms=T0)
    assert [(ban.verdict_id, ban.until_ms, ban.level, ban.rule) for ban in state.bans] == [
        ("b", T0 + HOUR_MS, 4, "brute_force"), ("v1", T0 + 60_000, 0, "")
    ]  # fmt: skip
    assert (state.rev, state.human_at_ms, finding.until_ms) == (8, T0, T0 + 60_000)
    assert (state.score, state.score_at_ms, state.offences) == (2000, T0 + HOUR_MS, 2)


def test_ban_of_all_actions_replaces_a_shorter_one_of_some() -> None:
    _, state = rule(HELD, replace(BAN, scope=("*",), duration_ms=2 * HOUR_MS), now_ms=T0)
    assert [ban.verdict_id for ban in state.bans] == ["v1"]


def test_lift_ends_every_ban_and_the_score_decays_from_now() -> None:
    _, state = rule(HELD, LIFT, now_ms=T0)
    assert (state.bans, state.score, state.score_at_ms, state.factor) == ((), 2000, T0, 500)
    _, later = rule(HELD, LIFT, now_ms=T0 + 2 * HOUR_MS)
    assert later.score_at_ms == T0 + HOUR_MS


def test_forgive_ends_score_tightening_and_warning_and_bans_stay() -> None:
    _, state = rule(HELD, FORGIVE, now_ms=T0)
    assert state == AbuseState(
        rev=8, score_at_ms=T0 + HOUR_MS, half_life_ms=HOUR_MS, offences=2, human_at_ms=T0, bans=HELD.bans
    )  # fmt: skip


def test_ruling_about_a_stranger_is_remembered_so_that_older_verdicts_are_overruled() -> None:
    finding, state = rule(None, LIFT, now_ms=T0)
    assert state == AbuseState(rev=T0, human_at_ms=T0)
    assert find_expiry_ms(-2, state, finding) == T0 + KEEP_MS


def test_state_is_never_forgotten_sooner_for_a_ruling() -> None:
    finding, state = rule(HELD, BAN, now_ms=T0)
    assert find_expiry_ms(T0 + 9 * KEEP_MS, state, finding) == T0 + 9 * KEEP_MS
    assert find_expiry_ms(T0, state, finding) == T0 + 60_000 + KEEP_MS


def test_event_tells_who_and_why_and_the_score_as_it_had_decayed() -> None:
    finding, _ = rule(HELD, FORGIVE, now_ms=T0 + 2 * HOUR_MS)
    event = make_ruling_event(FORGIVE, finding)
    assert (event.actor, event.reason, event.penalty, event.result) == ("alice", "it was a test", "forgive", "applied")
    assert (event.score_before, event.score_after, event.ban_until_ms, event.rule) == (1000, 0, None, "")
    finding, _ = rule(HELD, BAN, now_ms=T0)
    event = make_ruling_event(BAN, finding)
    assert (event.ban_until_ms, event.scope, event.score_after, event.at_ms) == (T0 + 60_000, ("login",), 2000, T0)


def test_change_is_named_by_request_actor_and_subject() -> None:
    name = identify_change("request", "alice", "user=m")
    assert name == identify_change("request", "alice", "user=m")
    others = [("request", "bob", "user=m"), ("request", "alice", "user=n"), ("requestal", "ice", "user=m")]
    assert name not in [identify_change(*other) for other in others]
