from __future__ import annotations

from detector.ladder import STRIKE, Offence, choose_rung, judge
from detector.rules import Ladder
from topics.events import AbuseState, Ban

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
KEEP_MS = 3 * DAY_MS
T0 = 1_800_000_000_000
LADDER = Ladder.model_validate(
    {
        "half_life": "24h",
        "rungs": [
            {"name": "warn", "penalty": "warn", "duration": "10m"},
            {"name": "half", "penalty": "tighten", "factor": 0.5, "duration": "10m"},
            {"name": "ban_1m", "penalty": "ban", "duration": "1m"},
            {"name": "ban_10m", "penalty": "ban", "duration": "10m"},
            {"name": "ban_1h", "penalty": "ban", "duration": "1h"},
        ],
    }
)


def make_offence(at_ms: int = T0, *, start: int = 3, name: str = "a", scope: tuple[str, ...] = ("login",)) -> Offence:
    return Offence(name, "user=m", "brute_force", scope, at_ms, start, is_shadow=False)


def offend(state: AbuseState | None, offence: Offence, *, now_ms: int | None = None) -> tuple[str, AbuseState | None]:
    at_ms = offence.at_ms if now_ms is None else now_ms
    judgement = judge(state, offence, LADDER, now_ms=at_ms, keep_ms=KEEP_MS)
    return judgement.finding.result, judgement.state


def test_offences_climb_the_ladder_and_stay_on_its_last_rung() -> None:
    state, at_ms, lengths = None, T0, []
    for _ in range(5):
        result, state = offend(state, make_offence(at_ms))
        assert result == "applied"
        assert state
        lengths.append(state.bans[0].until_ms - at_ms)
        at_ms = state.bans[0].until_ms
    assert lengths == [60_000, 600_000, HOUR_MS, HOUR_MS, HOUR_MS]


def test_strike_counts_until_its_half_life_is_over() -> None:
    _, state = offend(None, make_offence())
    until_ms = T0 + 60_000
    for later_ms, level in ((0, 4), (DAY_MS, 4), (DAY_MS + 10 * 60_000, 3)):
        _, again = offend(state, make_offence(until_ms + later_ms))
        assert again
        assert again.bans[0].level == level


def test_offence_during_a_ban_neither_strikes_nor_extends() -> None:
    _, state = offend(None, make_offence())
    assert offend(state, make_offence(T0 + 59_999, name="b")) == ("during_ban", state)
    assert offend(state, make_offence(T0 + 60_000, name="b"))[0] == "applied"


def test_ban_of_another_scope_does_not_cover_and_a_ban_of_everything_does() -> None:
    _, state = offend(None, make_offence(scope=("search",)))
    result, both = offend(state, make_offence(T0 + 1))
    assert both
    assert (result, len(both.bans)) == ("applied", 2)
    _, everything = offend(None, make_offence(scope=("*",)))
    assert offend(everything, make_offence(T0 + 1))[0] == "during_ban"


def test_ban_is_not_shortened_by_a_wider_but_shorter_one() -> None:
    long = AbuseState(rev=1, bans=(Ban(until_ms=T0 + DAY_MS, level=0, rule="", verdict_id="h", scope=("login",)),))
    _, state = offend(long, make_offence(scope=("login", "search")))
    assert state
    assert [(ban.until_ms - T0, ban.verdict_id) for ban in state.bans] == [(DAY_MS, "h"), (60_000, "a")]


def test_longer_and_wider_ban_replaces_what_it_covers() -> None:
    short = AbuseState(rev=1, bans=(Ban(until_ms=T0 + 10, level=3, rule="r", verdict_id="s", scope=("login",)),))
    _, state = offend(short, make_offence(scope=("*",)))
    assert state
    assert [ban.verdict_id for ban in state.bans] == ["a"]


def test_warning_and_tightening_come_first_and_still_strike() -> None:
    _, warned = offend(None, make_offence(start=1))
    assert warned
    assert (warned.warn_until_ms, warned.warn_rule, warned.score, warned.bans) == (T0 + 600_000, "brute_force", STRIKE, ())
    _, tightened = offend(warned, make_offence(T0 + 1_000, start=1, name="b"))
    assert tightened
    assert (tightened.factor, tightened.factor_until_ms, tightened.factor_verdict) == (500, T0 + 601_000, "b")
    _, banned = offend(tightened, make_offence(T0 + 2_000, start=1, name="c"))
    assert banned
    assert banned.bans[0].level == 3


def test_ban_that_is_over_when_it_is_judged_still_strikes() -> None:
    live = offend(None, make_offence())
    replayed = offend(None, make_offence(), now_ms=T0 + HOUR_MS)
    assert (live[0], replayed[0]) == ("applied", "already_over")
    assert live[1] == replayed[1]


def test_offence_that_is_older_than_what_is_kept_is_stale() -> None:
    assert offend(None, make_offence(), now_ms=T0 + KEEP_MS) == ("stale", None)
    assert offend(None, make_offence(), now_ms=T0 + KEEP_MS - 1)[0] == "already_over"


def test_human_decision_outranks_offences_of_before_it() -> None:
    forgiven = AbuseState(rev=7, human_at_ms=T0)
    assert offend(forgiven, make_offence(T0 - 1)) == ("overruled", forgiven)
    result, state = offend(forgiven, make_offence(T0))
    assert state
    assert (result, state.rev, state.human_at_ms) == ("applied", 8, T0)


def test_shadow_offence_is_told_and_changes_nothing() -> None:
    offence = Offence("a", "user=m", "brute_force", ("login",), T0, 3, is_shadow=True)
    judgement = judge(None, offence, LADDER, now_ms=T0, keep_ms=KEEP_MS)
    assert (judgement.state, judgement.expires_at_ms) == (None, None)
    assert (judgement.finding.result, judgement.finding.penalty, judgement.finding.rung) == ("shadow", "ban", 3)
    assert judgement.finding.until_ms == T0 + 60_000


def test_state_that_comes_back_after_it_expired_has_a_higher_revision() -> None:
    _, first = offend(None, make_offence())
    _, again = offend(None, make_offence(T0 + 30 * DAY_MS))
    assert first
    assert again
    assert again.rev > first.rev


def test_state_is_kept_until_nothing_is_held_and_every_replay_has_seen_it() -> None:
    judgement = judge(None, make_offence(), LADDER, now_ms=T0, keep_ms=KEEP_MS)
    forgotten_ms = T0 + 60_000 + 10 * DAY_MS
    assert judgement.expires_at_ms == forgotten_ms + KEEP_MS


def test_level_is_the_highest_since_the_score_was_zero() -> None:
    _, state = offend(AbuseState(rev=1, score=STRIKE, score_at_ms=T0, level=5), make_offence(start=1))
    assert state
    assert state.level == 5
    _, state = offend(AbuseState(rev=1, score=STRIKE, score_at_ms=T0 - 20 * DAY_MS, level=5), make_offence(start=1))
    assert state
    assert state.level == 1


def test_rungs_round_strikes_to_the_nearest() -> None:
    assert [choose_rung(3, score, 6) for score in (0, 499, 500, 1499, 1500, 99_000)] == [3, 3, 4, 4, 5, 6]
