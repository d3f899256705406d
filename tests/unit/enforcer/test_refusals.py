from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enforcer.bucket import Status
from enforcer.decision import Ban, Reading, decide
from enforcer.refusals import LONGEST_S, MOST_ENTRIES, Refusals
from tests.unit.enforcer.builders import make_plan

NOW_US = 1_700_000_000_000_000
PLAN = make_plan("alice", "login", attributes={"ip": "203.0.113.7"})
BY_USER = 0b10
FULL_IP = PLAN.limits[0].terms.capacity_units
USER_TERMS = PLAN.limits[1].terms


def refuse(level: int = 0, sent_s: float = 10.0, factor: int = 1000, status: Status = Status.LIMIT) -> Reading:
    return Reading(NOW_US, status, factor, BY_USER, BY_USER, (FULL_IP, level), sent_s=sent_s)


def ban(scope: tuple[str, ...] = ("login",), for_ms: int = 60_000) -> Reading:
    found = Ban(NOW_US // 1000 + for_ms, 1, "brute_force", "v1", "user=alice", scope)
    return Reading(NOW_US, Status.BAN, ban=found, sent_s=10.0)


def test_nothing_is_known_at_first() -> None:
    assert Refusals().find(PLAN, 10.0) is None


def test_a_refusal_is_repeated_with_what_is_left_to_wait() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse())
    again = refusals.find(PLAN, 10.5)
    assert again is not None
    decision = decide(PLAN, again)
    assert (decision.outcome, decision.reason, decision.is_cached) == ("deny", "limit", True)
    assert decision.retry_after_ms == 11_500
    assert [status.limit.name for status in decision.limits] == ["per_user"]


def test_a_refusal_is_forgotten_after_a_second() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse())
    assert refusals.find(PLAN, 10.0 + LONGEST_S) is None


def test_a_refusal_ends_with_its_retry_after_counted_from_before_the_call() -> None:
    refusals = Refusals()
    nearly = USER_TERMS.period_ticks - USER_TERMS.refill * 100_000  # 0.1 s short of a token
    refusals.remember(PLAN, refuse(nearly))
    assert refusals.find(PLAN, 10.0999) is not None
    assert refusals.find(PLAN, 10.1) is None


def test_a_smaller_cost_than_the_refused_one_is_asked_anew() -> None:
    refusals = Refusals()
    three = make_plan("alice", "login", cost=3, attributes={"ip": "203.0.113.7"})
    refusals.remember(three, refuse())
    assert refusals.find(three, 10.1) is not None
    assert refusals.find(PLAN, 10.1) is None


def test_a_larger_refused_cost_does_not_hide_a_smaller_one() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse())
    refusals.remember(make_plan("alice", "login", cost=3, attributes={"ip": "203.0.113.7"}), refuse(sent_s=10.1))
    assert refusals.find(PLAN, 10.5) is not None


def test_a_peek_is_never_answered_from_memory() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse())
    assert refusals.find(make_plan("alice", "login", cost=0, attributes={"ip": "203.0.113.7"}), 10.1) is None


def test_another_subject_is_not_refused() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse())
    assert refusals.find(make_plan("bob", "login", attributes={"ip": "203.0.113.7"}), 10.1) is None


def test_a_limit_that_refused_one_user_refuses_all_who_share_its_bucket() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, Reading(NOW_US, Status.LIMIT, 1000, 0b01, 0b01, (0, FULL_IP), sent_s=10.0))
    assert refusals.find(make_plan("bob", "login", attributes={"ip": "203.0.113.7"}), 10.1) is not None
    assert refusals.find(make_plan("bob", "login"), 10.1) is None


def test_a_throttled_refusal_is_not_kept() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse(factor=500))
    refusals.remember(PLAN, refuse(status=Status.THROTTLED))
    assert refusals.find(PLAN, 10.1) is None


def test_a_change_of_the_subject_drops_what_was_known() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse())
    refusals.remember(PLAN, ban(("search",)))
    refusals.forget("user=alice", 10.2)
    assert refusals.find(PLAN, 10.3) is None
    assert refusals.find(make_plan("alice", "search"), 10.3) is None


def test_what_is_learnt_after_a_change_is_kept() -> None:
    refusals = Refusals()
    refusals.forget("user=alice", 10.2)
    refusals.remember(PLAN, refuse(sent_s=10.3))
    assert refusals.find(PLAN, 10.4) is not None


def test_a_call_that_was_under_way_during_a_change_is_not_trusted() -> None:
    refusals = Refusals()
    refusals.forget("user=alice", 10.2)
    refusals.remember(PLAN, refuse(sent_s=10.1))
    assert refusals.find(PLAN, 10.4) is None


def test_a_ban_is_repeated_within_its_scope_until_its_end() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, ban(for_ms=500))
    again = refusals.find(PLAN, 10.4)
    assert again is not None
    assert again.ban is not None
    assert decide(PLAN, again).retry_after_ms == 100
    assert refusals.find(make_plan("alice", "search"), 10.4) is None
    assert refusals.find(PLAN, 10.5) is None


def test_clear_forgets_everything() -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse())
    refusals.remember(PLAN, ban())
    refusals.clear()
    assert refusals.find(PLAN, 10.1) is None


def test_memory_is_bounded_by_the_number_of_entries() -> None:
    refusals = Refusals()
    for i in range(MOST_ENTRIES + 10):
        refusals.remember(make_plan(f"u{i}", "login"), Reading(NOW_US, Status.LIMIT, 1000, 1, 1, (0,), sent_s=10.0))
    assert refusals.find(make_plan("u0", "login"), 10.1) is None
    assert refusals.find(make_plan(f"u{MOST_ENTRIES + 9}", "login"), 10.1) is not None


@given(level=st.integers(0, USER_TERMS.period_ticks - 1), after_s=st.floats(0, 2))
def test_a_remembered_refusal_never_outlives_the_bucket_that_it_speaks_of(level: int, after_s: float) -> None:
    refusals = Refusals()
    refusals.remember(PLAN, refuse(level))
    again = refusals.find(PLAN, 10.0 + after_s)
    if again is not None:
        assert level + int(after_s * 1e6) * USER_TERMS.refill < USER_TERMS.period_ticks
        assert again.levels[1] < USER_TERMS.period_ticks
