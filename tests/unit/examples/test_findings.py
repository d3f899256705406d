from collections import Counter

import pytest

from enforcer.client import Ban, Decision
from examples.findings import (
    ALLOW,
    BAN,
    DENY,
    BanObserved,
    Events,
    judge_ban,
    judge_bystanders,
    judge_end,
    judge_events,
    judge_logins,
    judge_office,
    judge_person,
    judge_scope,
    judge_searches,
    judge_second,
)
from topics.events import AbuseState, DecisionEvent, Penalty, SubjectEvent, VerdictEvent, VerdictResult

VICTIM = "user=victim"


def banned(until_ms: int = 10_000, level: int = 1, rule: str = "brute_force") -> Decision:
    return Decision("ban", "banned", ban=Ban(until_ms, ("login",), level, rule, "v1", VICTIM))


def observed(one: Decision, other: Decision) -> BanObserved:
    return BanObserved((one, other), (5.0, 6.0), 7_000)


DENIED = Decision("deny", "limit")


@pytest.mark.parametrize(("admitted", "is_met"), [(4, False), (5, True), (6, False)])
def test_logins_at_once_are_exact(admitted: int, is_met: bool) -> None:
    assert judge_logins(Counter({ALLOW: admitted, DENY: 14 - admitted})).is_met is is_met


def test_logins_below_the_threshold_must_not_ban() -> None:
    assert not judge_logins(Counter({ALLOW: 5, BAN: 1})).is_met


@pytest.mark.parametrize(("admitted", "is_met"), [(148, False), (149, True), (155, True), (156, False)])
def test_searches_stay_between_what_the_bucket_must_and_may_give(admitted: int, is_met: bool) -> None:
    assert judge_searches(admitted, 0, least_s=2.0, most_s=2.1).is_met is is_met


def test_searches_decided_without_redis_are_said() -> None:
    assert "3 decided without Redis" in judge_searches(150, 3, least_s=2, most_s=2).seen
    assert "Redis" not in judge_searches(150, 0, least_s=2, most_s=2).seen


@pytest.mark.parametrize(
    ("seen", "is_met"),
    [
        ({ALLOW: 30, DENY: 4}, True),
        ({ALLOW: 29, DENY: 1}, False),
        ({ALLOW: 70}, False),
        ({ALLOW: 30, DENY: 9, BAN: 1}, False),
    ],
)
def test_office_is_limited_and_not_banned(seen: dict[str, int], is_met: bool) -> None:
    assert judge_office(Counter(seen), 35).is_met is is_met


def test_who_stays_within_the_limits_is_always_served() -> None:
    assert judge_person(Counter({ALLOW: 3})).is_met
    assert not judge_person(Counter({ALLOW: 3, DENY: 1})).is_met


@pytest.mark.parametrize(("seen", "is_met"), [({ALLOW: 1, DENY: 1}, True), ({ALLOW: 1}, False), ({DENY: 1, BAN: 1}, False)])
def test_bystanders_meet_limits_and_no_bans(seen: dict[str, int], is_met: bool) -> None:
    assert judge_bystanders(Counter(seen)).is_met is is_met


def test_ban_has_to_be_told_alike_by_both_enforcers() -> None:
    assert [one.is_met for one in judge_ban(observed(banned(), banned()))] == [True, True]
    assert [one.is_met for one in judge_ban(observed(banned(), DENIED))] == [False, False]
    assert [one.is_met for one in judge_ban(observed(banned(), banned(until_ms=10_001)))] == [True, False]
    assert [one.is_met for one in judge_ban(observed(banned(rule="x"), banned(rule="x")))] == [True, False]


def test_scope_leaves_other_actions_alone() -> None:
    assert judge_scope(Decision("allow", "ok")).is_met
    assert not judge_scope(banned()).is_met


@pytest.mark.parametrize(("late_ms", "is_met"), [([12, 999], True), ([12, 1000], False), ([-1000, 0], False)])
def test_ban_ends_neither_early_nor_late(late_ms: list[float], is_met: bool) -> None:
    assert judge_end(late_ms).is_met is is_met


def test_second_offence_has_to_reach_a_higher_rung() -> None:
    first, harder = observed(banned(), banned()), banned(until_ms=20_000, level=2)
    assert judge_second(first, observed(harder, harder)).is_met
    assert not judge_second(first, observed(banned(20_000), banned(20_000))).is_met
    assert not judge_second(first, observed(DENIED, DENIED)).is_met


def decision(seq: int, source: str) -> DecisionEvent:
    return DecisionEvent(
        source=source, seq=seq, decided_at_ms=1, user_id="job", action="search", policy="search", policy_version="v",
        outcome="allow", reason="ok",
    )  # fmt: skip


def verdict(at_ms: int, until_ms: int, *, subject: str = VICTIM, result: VerdictResult = "applied") -> VerdictEvent:
    penalty: Penalty = "ban"
    return VerdictEvent(
        verdict_id=f"v{at_ms}", subject=subject, penalty=penalty, result=result, at_ms=at_ms, applied_at_ms=at_ms,
        ban_until_ms=until_ms,
    )  # fmt: skip


def state(rev: int) -> SubjectEvent:
    return SubjectEvent(subject=VICTIM, state=AbuseState(rev=rev))


def judge(events: Events, sent: int = 2) -> dict[str, bool]:
    return {one.what: one.is_met for one in judge_events(events, subject=VICTIM, sent=sent, balanced_user="job")}


def sound() -> Events:
    return Events(
        [decision(1, "e1/0/b"), decision(1, "e2/0/b")], [verdict(0, 3000), verdict(4000, 10_000)], [state(1), state(2)]
    )


def test_sound_events_meet_every_promise() -> None:
    assert all(judge(sound()).values())


def test_each_promise_about_events_is_missed_by_what_breaks_it() -> None:
    events = sound()
    events.verdicts[1] = verdict(4000, 6000)
    assert not judge(events)["bans in topic verdicts"]
    events.verdicts = [*sound().verdicts, verdict(5000, 20_000, result="during_ban")]
    assert judge(events)["bans in topic verdicts"]
    events.verdicts = [*sound().verdicts, verdict(5000, 9000, subject="user=office")]
    assert not judge(events)["who was banned"]
    events.verdicts = []
    assert not judge(events)["who was banned"]
    events.subjects.reverse()
    assert not judge(events)["states in topic subjects"]
    assert not judge(events, sent=3)["decisions in the topic"]
    events.decisions[1] = decision(2, "e1/0/b")
    assert not judge(events)["Envoy spreads the load"]
