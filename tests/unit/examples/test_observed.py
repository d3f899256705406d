import pytest

from examples.observed import MOST_SUBJECTS, MOST_USERS, RATE_WINDOW_S, BanSeen, Observed
from topics.events import AbuseState, Ban, DecisionEvent, HeartbeatEvent, Outcome, Reason, VerdictEvent

REASONS: dict[Outcome, Reason] = {"allow": "ok", "deny": "limit", "ban": "banned"}


def decision(
    user: str, outcome: Outcome = "allow", *, at_ms: int = 0, ip: str = "", limits: tuple[str, ...] = ()
) -> DecisionEvent:
    return DecisionEvent(
        source="e1/0/boot", seq=1, decided_at_ms=at_ms, user_id=user, action="login", policy="login", policy_version="v",
        outcome=outcome, reason=REASONS[outcome], attributes={"ip": ip} if ip else {}, limits=limits,
    )  # fmt: skip


def verdict(subject: str) -> VerdictEvent:
    return VerdictEvent(verdict_id="v", subject=subject, penalty="ban", result="applied", at_ms=1, applied_at_ms=1)


def test_users_are_shown_by_their_refusals() -> None:
    seen = Observed()
    seen.note(
        [decision("calm"), decision("calm"), decision("abuser", "deny", limits=("login:per_user",)), decision("abuser", "ban")]
    )
    assert [name for name, _ in seen.most_refused(10)] == ["abuser", "calm"]
    abuser = seen.users["abuser"]
    assert (abuser.outcomes["deny"], abuser.outcomes["ban"], abuser.outcome) == (1, 1, "ban")
    assert seen.outcomes == {"allow": 2, "deny": 1, "ban": 1}
    assert seen.decided_by == {"e1": 4}


def test_reason_of_a_denial_stays_after_the_next_request_passes() -> None:
    seen = Observed()
    seen.note([decision("u", "deny", limits=("login:per_user",)), decision("u")])
    assert (seen.users["u"].why, seen.users["u"].outcome) == ("login:per_user", "allow")


def test_only_the_last_addresses_are_kept() -> None:
    seen = Observed()
    seen.note(decision("u", ip=ip) for ip in ("a", "b", "a", "c", "d"))
    assert seen.users["u"].ips == ("b", "c", "d")


def test_rate_counts_whole_seconds_before_the_present_one() -> None:
    seen = Observed()
    seen.note(decision("u", at_ms=at_ms) for at_ms in range(0, 20_000, 100))
    assert seen.rate_per_s() == pytest.approx(10)
    seen.note([decision("u", at_ms=19_900 + RATE_WINDOW_S * 1000 + 1000)])
    assert seen.rate_per_s() == 0


def test_memory_is_bounded_however_many_users_and_seconds_come() -> None:
    seen = Observed()
    seen.note(decision(f"u{number}", at_ms=number * 1000) for number in range(3 * MOST_USERS))
    seen.note(verdict(f"user=u{number}") for number in range(3 * MOST_SUBJECTS))
    assert (len(seen.users), len(seen.subjects)) == (MOST_USERS, MOST_SUBJECTS)
    assert f"u{3 * MOST_USERS - 1}" in seen.users
    assert len(seen._per_second) <= 4 * RATE_WINDOW_S
    assert len(seen.verdicts) == 50


def test_bans_come_from_the_abuse_states_and_end_by_themselves() -> None:
    seen = Observed()
    ban = Ban(until_ms=5_000, level=2, rule="brute_force", verdict_id="v", scope=("login",))
    over = Ban(until_ms=1_000, level=1, rule="brute_force", verdict_id="v", scope=("login",))
    states = [("user=u", AbuseState(rev=1, offences=2, bans=(ban, over)))]
    seen.note_abuse(states, now_ms=1_000)
    assert seen.bans == (BanSeen("user=u", 5_000, "brute_force", 2, 2, ("login",)),)
    seen.note_abuse(states, now_ms=5_000)
    assert not seen.bans


def test_other_records_of_the_topics_are_passed_over() -> None:
    seen = Observed()
    seen.note([HeartbeatEvent(source="s", seq=1, at_ms=1)])
    assert seen == Observed()
