from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topics.events import (
    AbuseState,
    DeadLetter,
    DecisionEvent,
    Event,
    Evidence,
    Fold,
    FoldsEvent,
    GapEvent,
    HeartbeatEvent,
    LoadEvent,
    OutcomeEvent,
    Override,
    SubjectEvent,
    VerdictEvent,
)
from topics.lines import Line, clean, format_span, format_time, say, say_tombstone, say_undecodable

AT_MS = 1_795_516_862_123


def plain(line: Line) -> str:
    return "".join(text for text, _ in line)


def decision(**changes: object) -> DecisionEvent:
    fields = {
        "source": "a",
        "seq": 1,
        "decided_at_ms": AT_MS,
        "user_id": "alice",
        "action": "login",
        "policy": "login",
        "policy_version": "1",
        "outcome": "allow",
        "reason": "ok",
        "remaining": 4,
    }
    return DecisionEvent.model_validate(fields | changes)


def verdict(**changes: object) -> VerdictEvent:
    fields = {
        "verdict_id": "v1",
        "subject": "user=alice",
        "penalty": "ban",
        "result": "applied",
        "rule": "brute_force",
        "rung": 2,
        "at_ms": AT_MS,
        "applied_at_ms": AT_MS + 5,
        "scope": ["login"],
        "ban_until_ms": AT_MS + 600_000,
        "score_before": 1000,
        "score_after": 1960,
        "evidence": Evidence(
            count=11,
            threshold=10,
            window_ms=60_000,
            first_ms=1,
            last_ms=2,
            admitted=3,
            partition=0,
            offset=0,
            source="a",
            n=1,
        ),
    }
    return VerdictEvent.model_validate(fields | changes)


def test_a_ban_says_what_until_when_by_which_rule_on_what_count() -> None:
    (line,) = say(verdict())
    assert plain(line) == (
        "2026-11-24 10:41:02.123Z user=alice banned from login until 2026-11-24 10:51:02.123Z (10 m), rule brute_force, "
        "rung 2, 11 denials in 60 s against a threshold of 10, 3 admitted (strikes 1 to 1.96, verdict v1)"
    )


def test_a_verdict_that_changed_nothing_says_why() -> None:
    (line,) = say(verdict(result="during_ban"))
    assert "[changed nothing: a ban was running]" in plain(line)


def test_a_lift_names_the_person_and_the_reason() -> None:
    (line,) = say(verdict(penalty="lift", rule="", evidence=None, ban_until_ms=None, actor="carol", reason="called the desk"))
    assert "ban lifted, by carol: called the desk" in plain(line)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"override": Override(policy="login", limit="per_user", capacity=50, refill="50/1m", until_ms=1_795_516_860_000)},
            "limit login:per_user holds 50, refilled 50/1m, until 2026-11-24 10:41:00.000Z, by carol: her launch",
        ),
        (
            {"override": Override(policy="login", limit="per_user")},
            "limit login:per_user as in the policies again, by carol: her launch",
        ),
        (
            {"penalty": "reload", "subject": "policies", "rule_version": "3f9a", "rev": 4},
            "policies replaced by version 3f9a, generation 4, by carol: her launch",
        ),
    ],
)
def test_changes_of_terms_say_what_holds_now_and_who_made_it(changes: dict[str, object], told: str) -> None:
    made: dict[str, object] = {"penalty": "override", "rule": "", "evidence": None, "ban_until_ms": None, "actor": "carol"}
    (line,) = say(verdict(**made | {"reason": "her launch"} | changes))
    assert told in "".join(text for text, _ in line)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "allow alice login (policy login; cost 1; 4 left)"),
        (
            {"outcome": "deny", "reason": "limit", "limits": ["login:per_user"], "remaining": 0, "retry_after_ms": 12_000},
            "deny  alice login (by login:per_user; policy login; cost 1; 0 left; retry after 12 s)",
        ),
        (
            {"outcome": "ban", "reason": "banned", "ban_until_ms": AT_MS, "verdict_id": "v1"},
            "ban   alice login (until 2026-11-24 10:41:02.123Z, verdict v1; banned; policy login; cost 1; 4 left)",
        ),
        ({"degraded": True, "factor": 500, "suppressed": 2}, "factor 0.5; and 2 before it at the client; degraded)"),
        ({"shadow_limits": ["login:new"], "attributes": {"ip": "::1"}}, "shadow: would be refused by login:new; ip=::1)"),
        ({"user_id": ""}, "allow '' login"),
    ],
)
def test_a_decision_says_what_whom_and_why(changes: dict[str, object], told: str) -> None:
    (line,) = say(decision(**changes))
    assert told in plain(line)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (GapEvent(source="a", ranges=((3, 5), (9, 9)), at_ms=AT_MS, reason="spool_full"), "gap a dropped 3-5, 9-9: spool_full"),
        (
            OutcomeEvent(source="a", n=1, action="search", second_ms=AT_MS, count=3, errors=1, latencies={460: 9, 575: 1}),
            "search 3 calls, 1 errors, 0 timeouts, p90 9.79 ms (a)",
        ),
        (
            LoadEvent(
                source="a", n=1, action="search", second_ms=AT_MS, admitted_tokens=3, active_subjects=2, refill_milli_per_s=1500
            ),
            "search 3 tokens admitted; 2 active subjects, refill 1.5/s (a)",
        ),
        (
            DeadLetter(
                topic="denials", partition=3, offset=9, error="bad", at_ms=AT_MS, value_base64="b29wcwA=", value_bytes=5
            ),
            "denials/3/9 bad: 5 bytes, oops\\x00",
        ),
        (
            SubjectEvent(
                subject="user=a", state=AbuseState(rev=3, score=1500, level=1, offences=2, factor=500, factor_until_ms=AT_MS)
            ),
            "user=a limits tightened to 0.5 until 2026-11-24 10:41:02.123Z; strikes 1.5, level 1, 2 offences, rev 3",
        ),
    ],
)
def test_other_events_say_what_they_hold(event: Event, told: str) -> None:
    (line,) = say(event)
    assert told in plain(line)


def test_folds_are_one_line_each_and_marks_none() -> None:
    fold = Fold(
        subject="user=a", action="login", policy="login", limit="per_user", count=3, first_ms=1, last_ms=41, users=(1, 2)
    )
    lines = say(FoldsEvent(source="a", n=1, at_ms=AT_MS, folds=(fold, fold)))
    assert len(lines) == 2
    assert "user=a login denied 3 times in 40 ms (by login:per_user, 0 admitted since the last, 2 users)" in plain(lines[0])
    assert say(HeartbeatEvent(source="a", seq=1, at_ms=AT_MS)) == []


@given(st.text())
def test_nothing_from_outside_can_break_a_line_or_steer_a_terminal(text: str) -> None:
    for line in (
        *say(decision(user_id=text, action=text, attributes={text: text})),
        say_undecodable("decisions", 0, 1, text, text.encode(errors="surrogatepass")),
        say_tombstone(text.encode(errors="surrogatepass")),
    ):
        assert plain(line).isprintable()


def test_what_prints_is_left_as_it_is() -> None:
    assert clean("Zoë 🙂 {x}:y") == "Zoë 🙂 {x}:y"
    assert clean("a\x1b[31m\n") == "a\\x1b[31m\\n"


@pytest.mark.parametrize(
    ("span_ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_500, "1.5 s"),
        (60_000, "60 s"),
        (600_000, "10 m"),
        (86_400_000, "24 h"),
        (31_536_000_000, "365 d"),
    ],
)
def test_spans_are_told_in_a_unit_that_fits(span_ms: int, text: str) -> None:
    assert format_span(span_ms) == text


def test_an_instant_beyond_the_calendar_is_told_as_a_number() -> None:
    assert format_time(10**18) == "1000000000000000000ms"
    assert format_time(0) == "1970-01-01 00:00:00.000Z"
