"""Decisions without Redis."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions import fallback as module
from enforcer.decisions.decision import Ban, Reading, decide
from enforcer.decisions.fallback import Fallback, covers, share_terms
from enforcer.decisions.plan import Plan
from enforcer.decisions.refusals import Refusals
from enforcer.limits.bucket import Status, Terms
from enforcer.limits.check import Check
from tests.unit.enforcer.builders import EVERYTHING, make_plan, make_policies

NOW_US = 1_700_000_000_000_000
NOW_MS = NOW_US // 1000
MINUTE_US = 60_000_000


def read(fallback: Fallback, plan: Plan, now_us: int = NOW_US) -> Reading:
    return fallback.read(fallback.share(plan), now_us)


def make_ban(until_ms: int, scope: tuple[str, ...] = ("login",), subject: str = "user=alice") -> Ban:
    return Ban(until_ms, 1, "brute_force", "v1", subject, scope)


def test_local_admits_this_processs_share_and_refills_at_its_share() -> None:
    fallback = Fallback(2)
    statuses = [read(fallback, make_plan()).status for _ in range(3)]
    assert statuses == [Status.ALLOW, Status.ALLOW, Status.LIMIT]
    assert read(fallback, make_plan(), NOW_US + 24_000_000 - 1).status == Status.LIMIT
    assert read(fallback, make_plan(), NOW_US + 24_000_000).status == Status.ALLOW
    assert read(fallback, make_plan("bob")).status == Status.ALLOW


def test_bucket_that_is_kept_here_follows_redis_while_it_answers() -> None:
    fallback, plan = Fallback(2), make_plan()
    assert not fallback.is_used
    assert read(fallback, plan).status == Status.ALLOW
    assert fallback.is_used
    fallback.learn(plan, Reading(NOW_US, Status.ALLOW, levels=(0,)), NOW_US)
    assert read(fallback, plan).status == Status.LIMIT
    fallback.learn(plan, Reading(NOW_US, Status.ALLOW, levels=(plan.limits[0].terms.capacity_units,)), NOW_US)
    assert [read(fallback, plan).status for _ in range(3)] == [Status.ALLOW, Status.ALLOW, Status.LIMIT]


def test_bucket_that_refused_lately_begins_with_what_it_holds_by_now() -> None:
    fallback, refusals, plan = Fallback(2), Refusals(), make_plan()
    refusals.remember(plan, Reading(NOW_US, Status.LIMIT, refused=1, refused_at_1=1, levels=(0,), sent_s=100.0))
    assert refusals.estimate(plan, 100.0) == (0,)
    assert fallback.read(fallback.share(plan), NOW_US, refusals.estimate(plan, 100.0)).status == Status.LIMIT
    other = Fallback(2)
    # A minute's refill is five tokens for all, and two for each of two processes.
    levels = refusals.estimate(plan, 160.0)
    assert levels == (plan.limits[0].terms.capacity_units,)
    assert [other.read(other.share(plan), NOW_US, levels).status for _ in range(3)] == [
        Status.ALLOW,
        Status.ALLOW,
        Status.LIMIT,
    ]
    assert Refusals().estimate(plan, 100.0) == (None,)


def test_bucket_that_was_never_used_here_is_not_followed() -> None:
    fallback = Fallback(2)
    fallback.learn(make_plan(), Reading(NOW_US, Status.ALLOW, levels=(0,)), NOW_US)
    assert not fallback.is_used


def test_answer_without_redis_is_marked_and_tells_the_share() -> None:
    fallback = Fallback(2)
    shared = fallback.share(make_plan())
    decision = decide(shared, fallback.read(shared, NOW_US))
    assert decision.is_degraded
    assert [(status.capacity, status.remaining) for status in decision.limits] == [(2, 1)]


def test_cost_above_the_share_takes_the_whole_share() -> None:
    fallback = Fallback(2)
    assert read(fallback, make_plan(cost=5)).status == Status.ALLOW
    assert read(fallback, make_plan(cost=1)).status == Status.LIMIT


def test_strictest_of_the_policies_that_apply_says_what_happens() -> None:
    policies = make_policies(EVERYTHING)
    assert read(Fallback(2), make_plan(attributes={"ip": "::1"}, policies=policies)).status == Status.LIMIT  # deny and local
    fallback, plan = Fallback(100), make_plan(action="else", policies=policies)  # allow and local
    assert plan.template.policy.without_redis == "allow"
    assert [read(fallback, plan).status for _ in range(2)] == [Status.ALLOW, Status.LIMIT]


@pytest.mark.parametrize("action", ["login", "other"])
def test_cost_that_no_limit_could_ever_grant_is_refused_whatever_the_policy_says(action: str) -> None:
    plan = make_plan(action=action)
    plan = msgspec.structs.replace(plan, check=Check("alice", action, plan.limits[0].terms.capacity + 1))
    reading = read(Fallback(2), plan)
    assert (reading.status, reading.refused) == (Status.LIMIT, 1)


@pytest.mark.parametrize("action", ["login", "shared", "other", "free"])
def test_refund_is_granted_whatever_the_policy_says_and_to_the_banned(action: str) -> None:
    fallback = Fallback(1)
    fallback.remember(make_ban(NOW_MS + 5, ("*",)))
    refund = msgspec.structs.replace(make_plan(action=action), check=Check("alice", action, -2))
    assert read(fallback, refund).status == Status.ALLOW


def test_refund_gives_back_to_this_processs_share() -> None:
    fallback = Fallback(2)
    read(fallback, make_plan(cost=5))
    read(fallback, msgspec.structs.replace(make_plan(), check=Check("alice", "login", -1)))
    assert [read(fallback, make_plan()).status for _ in range(2)] == [Status.ALLOW, Status.LIMIT]


def test_limits_that_cost_different_amounts_take_each_its_own() -> None:
    fallback = Fallback(1)
    plan = msgspec.structs.replace(make_plan(attributes={"ip": "203.0.113.7"}), costs=(20, 5))
    decision = decide(plan, read(fallback, plan))
    assert [status.remaining for status in decision.limits] == [10, 0]
    assert read(fallback, msgspec.structs.replace(plan, costs=(11, 0))).refused == 0b01


def test_cost_0_reads_and_changes_nothing() -> None:
    fallback = Fallback(2)
    for _ in range(5):
        assert read(fallback, make_plan(cost=0)).status == Status.ALLOW
    assert not fallback._buckets


def test_policy_may_deny_and_its_shadow_limits_stay_out_of_it() -> None:
    plan = make_plan(action="shared")
    reading = read(Fallback(2), plan)
    assert (reading.status, reading.refused, reading.is_degraded) == (Status.LIMIT, 0b01, True)
    assert decide(plan, reading).reason == "limit"


def test_policy_may_allow_without_counting() -> None:
    fallback = Fallback(2)
    for _ in range(500):
        assert read(fallback, make_plan(action="other")).status == Status.ALLOW
    assert not fallback._buckets


def test_policy_without_limits_allows() -> None:
    assert read(Fallback(2), make_plan(action="free")).status == Status.ALLOW


@given(capacity=st.integers(1, 1000), enforcers=st.integers(1, 50))
def test_shares_of_all_processes_make_up_the_limit(capacity: int, enforcers: int) -> None:
    terms = Terms.of(capacity, 7, MINUTE_US)
    share = share_terms(terms, enforcers)
    assert share.capacity == max(1, capacity // enforcers)
    assert share.capacity * enforcers <= max(capacity, enforcers)
    assert (share.refill, share.period_ticks) == (7, MINUTE_US * enforcers)
    assert share.capacity_units == share.capacity * share.period_ticks
    assert (share.tag == terms.tag) == (enforcers == 1)


@pytest.mark.parametrize("action", ["login", "shared", "other"])
def test_known_ban_holds_whatever_the_policy_says_until_its_end(action: str) -> None:
    fallback = Fallback(2)
    ban = make_ban(NOW_MS + 5, ("*",))
    fallback.remember(ban)
    reading = read(fallback, make_plan(action=action))
    assert (reading.status, reading.ban, reading.is_degraded) == (Status.BAN, ban, True)
    assert read(fallback, make_plan(action=action), NOW_US + 4_999).status == Status.BAN
    assert read(fallback, make_plan(action=action), NOW_US + 5_000).status != Status.BAN
    assert not fallback._bans


def test_known_ban_covers_the_actions_of_its_scope_alone() -> None:
    fallback = Fallback(2)
    fallback.remember(make_ban(NOW_MS + 5, ("login", "api/*")))
    found = {action: read(fallback, make_plan(action=action)).status == Status.BAN for action in ("login", "api/x", "search")}
    assert found == {"login": True, "api/x": True, "search": False}


def test_ban_of_any_subject_of_the_check_holds() -> None:
    fallback = Fallback(2)
    fallback.remember(make_ban(NOW_MS + 5, subject="ip=203.0.113.7"))
    assert read(fallback, make_plan("bob", attributes={"ip": "203.0.113.7"})).status == Status.BAN
    assert read(fallback, make_plan("bob")).status == Status.ALLOW


def test_longer_ban_is_not_replaced_by_a_shorter_one() -> None:
    fallback = Fallback(2)
    fallback.remember(make_ban(NOW_MS + 50))
    fallback.remember(make_ban(NOW_MS + 5))
    assert read(fallback, make_plan(), NOW_US + 20_000).status == Status.BAN


def test_memories_are_bounded_and_what_was_used_least_lately_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BUCKETS", 3)
    monkeypatch.setattr(module, "MOST_BANS", 3)
    fallback = Fallback(1)
    for user in ("a", "b", "c", "a", "d"):
        read(fallback, make_plan(user))
        fallback.remember(make_ban(NOW_MS + 5, ("search",), f"user={user}"))
    assert [key.split("}")[0].split("=")[1] for key in fallback._buckets] == ["c", "a", "d"]
    assert list(fallback._bans) == ["user=c", "user=a", "user=d"]


@pytest.mark.parametrize(
    ("glob", "action", "is_covered"),
    [
        ("*", "anything", True),
        ("login", "login", True),
        ("login", "logins", False),
        ("login", "xlogin", False),
        ("log*", "login", True),
        ("*in", "login", True),
        ("l*n", "login", True),
        ("l*n", "lodge", False),
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "acb", False),
        ("a**c", "ac", True),
        ("a.c", "abc", False),
        ("[a]", "a", False),
        ("", "a", False),
    ],
)
def test_scope_covers_what_its_globs_match(glob: str, action: str, is_covered: bool) -> None:
    assert covers((glob,), action) is is_covered
    assert covers(("nothing", glob), action) is is_covered


def test_ban_that_was_lifted_ends_at_once() -> None:
    fallback = Fallback(1)
    fallback.remember(make_ban(NOW_MS + 50))
    fallback.forget("user=alice")
    fallback.forget("user=nobody")
    assert read(fallback, make_plan()).status == Status.ALLOW
