"""Refusals that are still certain are answered from memory, and no others."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions import refusals as module
from enforcer.decisions.decision import Ban, Reading, decide
from enforcer.decisions.refusals import Refusals
from enforcer.limits.bucket import UNLOWERED, Status, take
from enforcer.limits.check import Check
from tests.unit.enforcer.builders import make_plan

NOW_US = 1_700_000_000_000_000
TOKEN = 60_000_000
SENT_S = 128.0


def refuse(level: int = 0, *, refused: int = 0b1, factor: int = UNLOWERED, status: Status = Status.LIMIT) -> Reading:
    return Reading(NOW_US, status, factor, refused, refused, (level,), sent_s=SENT_S)


def make_ban(until_ms: int, scope: tuple[str, ...] = ("login",)) -> Reading:
    return Reading(NOW_US, Status.BAN, ban=Ban(until_ms, 1, "r", "v1", "user=alice", scope), sent_s=SENT_S)


def test_refusal_is_remembered_for_its_retry_after() -> None:
    refusals, plan = Refusals(), make_plan()
    refusals.remember(plan, refuse(TOKEN - 5 * 500_000))  # half a second is missing
    reading = refusals.find(plan, SENT_S + 0.4375)
    assert reading is not None
    assert (reading.status, reading.refused, reading.refused_at_1, reading.is_cached) == (Status.LIMIT, 1, 1, True)
    assert decide(plan, reading).retry_after_ms == 63
    assert refusals.find(plan, SENT_S + 0.5) is None
    assert refusals.hits == 1


def test_refusal_is_remembered_for_a_second_at_most() -> None:
    refusals, plan = Refusals(), make_plan()
    refusals.remember(plan, refuse(0))
    assert refusals.find(plan, SENT_S + 0.999) is not None
    assert refusals.find(plan, SENT_S + 1.0) is None


def test_smaller_cost_than_was_refused_asks_redis() -> None:
    refusals = Refusals()
    refusals.remember(make_plan(cost=3), refuse(0))
    assert refusals.find(make_plan(cost=2), SENT_S) is None
    assert refusals.find(make_plan(cost=4), SENT_S) is not None
    assert refusals.find(make_plan(cost=0), SENT_S) is None
    refusals.remember(make_plan(cost=2), refuse(0))
    assert refusals.find(make_plan(cost=2), SENT_S) is not None


def test_refund_is_never_refused_from_memory() -> None:
    refusals, refund = Refusals(), msgspec.structs.replace(make_plan(), check=Check("alice", "login", -1))
    refusals.remember(make_plan(), refuse(0))
    refusals.remember(make_plan(), make_ban(NOW_US // 1000 + 500))
    assert refusals.find(refund, SENT_S) is None


def test_each_limit_is_remembered_with_what_it_was_asked_for() -> None:
    refusals, plan = Refusals(), make_plan(attributes={"ip": "203.0.113.7"}, cost=4)
    asked = msgspec.structs.replace(plan, costs=(4, 2))
    refusals.remember(asked, Reading(NOW_US, Status.LIMIT, UNLOWERED, 0b10, 0b10, (9 * TOKEN, 0), sent_s=SENT_S))
    assert refusals.find(msgspec.structs.replace(plan, costs=(4, 1)), SENT_S) is None
    assert refusals.find(msgspec.structs.replace(plan, costs=(0, 2)), SENT_S) is not None
    assert refusals.find(make_plan(cost=1), SENT_S) is None


@given(spent=st.integers(0, 5), first=st.integers(1, 5), cost=st.integers(1, 5), later_us=st.integers(0, 2_000_000))
def test_no_check_is_refused_from_memory_that_redis_would_allow(spent: int, first: int, cost: int, later_us: int) -> None:
    plan, asked = make_plan(cost=first), make_plan(cost=cost)
    terms = [plan.limits[0].terms]
    buckets, _ = take([None], terms, [False], [spent], UNLOWERED, NOW_US - 11_500_000)
    _, taken = take(buckets, terms, [False], [first], UNLOWERED, NOW_US)
    refusals = Refusals()
    if taken.status == Status.ALLOW:
        return
    refusals.remember(
        plan, Reading(NOW_US, taken.status, UNLOWERED, taken.refused, taken.refused_at_1, taken.levels, sent_s=SENT_S)
    )
    # The call was sent before Redis read its clock, so Redis is never behind what is counted from here.
    if refusals.find(asked, SENT_S + later_us / 1e6) is not None:
        assert take(buckets, terms, [False], [cost], UNLOWERED, NOW_US + later_us)[1].status == Status.LIMIT


@pytest.mark.parametrize(
    "reading",
    [
        pytest.param(refuse(status=Status.THROTTLED), id="throttled"),
        pytest.param(refuse(factor=999), id="under a factor"),
        pytest.param(Reading(NOW_US, Status.ALLOW, levels=(0,), sent_s=SENT_S), id="allowed"),
    ],
)
def test_what_is_not_certain_is_not_remembered(reading: Reading) -> None:
    refusals = Refusals()
    refusals.remember(make_plan(), reading)
    assert refusals.find(make_plan(), SENT_S) is None


def test_shadow_limit_is_not_remembered() -> None:
    refusals, plan = Refusals(), make_plan(action="shared")
    refusals.remember(plan, Reading(NOW_US, Status.LIMIT, UNLOWERED, 0b10, 0b10, (5, 0), sent_s=SENT_S))
    assert refusals.find(plan, SENT_S) is None


def test_limit_of_others_is_unknown_and_has_no_status() -> None:
    refusals, plan = Refusals(), make_plan(attributes={"ip": "203.0.113.7"})
    refusals.remember(plan, Reading(NOW_US, Status.LIMIT, UNLOWERED, 0b10, 0b10, (7, 0), sent_s=SENT_S))
    reading = refusals.find(make_plan(), SENT_S)
    assert reading is not None, "the same user's bucket, asked for without an address"
    reading = refusals.find(plan, SENT_S)
    assert reading is not None
    assert [status.limit.name for status in decide(plan, reading).limits] == ["per_user"]
    assert refusals.find(make_plan("bob", attributes={"ip": "203.0.113.7"}), SENT_S) is None


def test_ban_is_remembered_for_a_second_or_until_its_end_within_its_scope() -> None:
    refusals = Refusals()
    refusals.remember(make_plan(), make_ban(NOW_US // 1000 + 60_000))
    reading = refusals.find(make_plan(), SENT_S + 0.5)
    assert reading is not None
    assert (reading.status, reading.now_us) == (Status.BAN, NOW_US + 500_000)
    assert refusals.find(make_plan(action="other"), SENT_S) is None
    assert refusals.find(make_plan(), SENT_S + 1.0) is None
    refusals.remember(make_plan(), make_ban(NOW_US // 1000 + 300))
    assert refusals.find(make_plan(), SENT_S + 0.299) is not None
    assert refusals.find(make_plan(), SENT_S + 0.3) is None


def test_change_that_is_published_ends_what_was_known_of_the_subject() -> None:
    refusals = Refusals()
    refusals.remember(make_plan(), refuse(0))
    refusals.remember(make_plan("bob"), refuse(0))
    refusals.remember(make_plan(), make_ban(NOW_US // 1000 + 60_000))
    refusals.forget("user=alice", SENT_S + 0.1)
    assert refusals.find(make_plan(), SENT_S + 0.2) is None
    assert refusals.find(make_plan("bob"), SENT_S + 0.2) is not None
    refusals.clear()
    assert refusals.find(make_plan("bob"), SENT_S + 0.2) is None


def test_change_of_before_the_call_does_not_end_what_the_call_saw() -> None:
    refusals = Refusals()
    refusals.forget("user=alice", SENT_S - 0.1)
    refusals.remember(make_plan(), refuse(0))
    assert refusals.find(make_plan(), SENT_S) is not None


def test_call_that_was_under_way_during_a_change_is_not_trusted() -> None:
    refusals = Refusals()
    refusals.forget("user=alice", SENT_S + 0.1)
    refusals.remember(make_plan(), refuse(0))
    assert refusals.find(make_plan(), SENT_S + 0.2) is None


def test_larger_cost_that_was_refused_does_not_hide_a_smaller_one() -> None:
    refusals = Refusals()
    refusals.remember(make_plan(cost=1), refuse(0))
    refusals.remember(make_plan(cost=3), refuse(0))
    assert refusals.find(make_plan(cost=1), SENT_S + 0.5) is not None


def test_limit_that_refused_one_user_refuses_all_who_share_its_bucket() -> None:
    refusals, ip = Refusals(), {"ip": "203.0.113.7"}
    refusals.remember(make_plan(attributes=ip), Reading(NOW_US, Status.LIMIT, UNLOWERED, 0b01, 0b01, (0, 5), sent_s=SENT_S))
    assert refusals.find(make_plan("bob", attributes=ip), SENT_S) is not None
    assert refusals.find(make_plan("bob"), SENT_S) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 5)
    refusals = Refusals()
    for number in range(20):
        refusals.remember(make_plan(f"user-{number}"), refuse(0))
        refusals.forget(f"user=other-{number}", SENT_S)
    found = [number for number in range(20) if refusals.find(make_plan(f"user-{number}"), SENT_S) is not None]
    assert found == [15, 16, 17, 18, 19]
