"""Recorded decisions through a candidate: what changes, and that the document in force repeats the record."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.limits.bucket import Bucket, Status, take
from enforcer.limits.policy import Policies
from enforcer.simulation import simulation
from enforcer.simulation.simulation import PolicyChanges, Replay, Report, Simulation, Truth, UserChanges, find_cause
from tests.unit.enforcer.builders import make_plan, make_policies
from topics.recorded import Recorded

START_MS = 1_800_000_000_000
TEXT = """
version: 1
subjects: [user, ip]
attributes: [route]
tier: {{ attribute: plan }}
policies:
  - name: login
    match: {{ action: login }}
    limits:
      - {{ name: per_ip, per: [ip], capacity: 8, refill: 8/1s }}
      - {{ name: trial, per: [user], capacity: 1, refill: 1/1h, mode: shadow }}
      - name: per_user
        per: [user]
        capacity: {capacity}
        refill: 3/1s
        tiers: {{ gold: {{ capacity: 50, refill: 3/1s }} }}
  - name: route
    match: {{ action: route }}
    limits: [{{ name: per_route, per: [route], capacity: 1, refill: 1/1h }}]
  - {{ name: default, match: {{ action: "*" }}, limits: [] }}
"""


def make(capacity: int = 3) -> Policies:
    return make_policies(TEXT.format(capacity=capacity))


IN_FORCE = make()


def record(seq: int = 1, at_ms: int = START_MS, user: str = "alice", **rest: Any) -> Recorded:
    values = {
        "action": "login",
        "policy_version": IN_FORCE.version,
        "outcome": "allow",
        "reason": "ok",
        "source": "a/0/1",
        **rest,
    }
    return Recorded(seq=seq, decided_at_ms=at_ms, user_id=user, **values)


def play(policies: Policies, checks: Iterable[tuple[int, str, str, int]]) -> list[Recorded]:
    """What an enforcer records, by the specification: of microseconds, users, addresses and costs."""
    buckets: dict[str, Bucket] = {}
    records = []
    for seq, (now_us, user, ip, cost) in enumerate(checks, 1):
        plan = make_plan(user, "login", cost, {"ip": ip}, policies=policies)
        stored, taken = take(
            [buckets.get(key) for key in plan.bucket_keys],
            [limit.terms for limit in plan.limits],
            [limit.is_shadow for limit in plan.limits],
            plan.cost_of_each,
            1000,
            now_us,
        )
        buckets.update({key: bucket for key, bucket in zip(plan.bucket_keys, stored, strict=True) if bucket})
        outcome, reason = ("allow", "ok") if taken.status == Status.ALLOW else ("deny", "limit")
        records.append(record(seq, now_us // 1000, user, outcome=outcome, reason=reason, cost=cost, attributes={"ip": ip}))
    return records


def simulate(records: Sequence[Recorded], candidate: Policies, recorded: Policies | None = None) -> Report:
    run = Simulation(candidate, recorded)
    for each in records:
        run.feed(each)
    return run.report


def draw_checks(count: int, seed: int = 3) -> list[tuple[int, str, str, int]]:
    chosen, now_us = random.Random(seed), START_MS * 1000
    checks = []
    for _ in range(count):
        now_us += chosen.choice([0, 137, 1000, 60_000, 400_000])
        checks.append((now_us, f"user{chosen.randrange(4)}", f"10.0.0.{chosen.randrange(3)}", chosen.choice([1, 1, 1, 2])))
    return checks


def test_the_document_in_force_repeats_its_own_record() -> None:
    truth = simulate(play(IN_FORCE, draw_checks(5000)), IN_FORCE, IN_FORCE).truth
    assert truth is not None
    assert truth.judged == 5000
    assert truth.differences["unexplained"] == 0
    assert truth.is_sound
    assert truth.repeated >= 4950, "what is not repeated was decided within a millisecond"


def test_another_document_does_not_repeat_the_record() -> None:
    records = play(make(5), draw_checks(1000))
    for each in records:
        each.policy_version = IN_FORCE.version
    truth = simulate(records, IN_FORCE, IN_FORCE).truth
    assert truth is not None
    assert truth.differences["unexplained"] > 10
    assert not truth.is_sound
    assert len(truth.examples) == simulation.MOST_EXAMPLES
    assert "login by 'user" in truth.examples[0]


def test_the_same_candidate_changes_nothing_and_a_lower_one_refuses_more() -> None:
    records = play(IN_FORCE, draw_checks(2000))
    same = simulate(records, IN_FORCE).policies["login"]
    assert same.now_denied + same.now_allowed <= 20
    lower = simulate(records, make(1)).policies["login"]
    assert lower.now_denied > 100
    assert lower.checks == 2000 == lower.now_denied + lower.now_allowed + lower.still_allowed + lower.still_denied


def test_changes_are_counted_by_policy_and_user_with_the_first_of_them() -> None:
    records = [record(seq, START_MS + seq, "alice") for seq in range(1, 4)]
    records += [record(seq, START_MS + seq, "bob", outcome="deny", reason="limit") for seq in range(4, 6)]
    report = simulate(records, make(2))
    assert report.policies == {"login": PolicyChanges(5, still_allowed=2, now_denied=1, now_allowed=2)}
    assert report.users == {"alice": UserChanges(1, 0, START_MS + 3), "bob": UserChanges(0, 2, START_MS + 4)}
    assert (report.first_ms, report.last_ms, report.decisions) == (START_MS + 1, START_MS + 5, 5)


def test_a_cost_above_the_capacity_is_refused_content() -> None:
    report = simulate([record(cost=4)], IN_FORCE)
    assert report.policies["login"].refused_content == report.policies["login"].now_denied == 1


def test_tiers_shadow_limits_and_envoys_descriptors_are_planned_as_the_enforcer_plans() -> None:
    gold = [record(seq, START_MS, "alice", attributes={"plan": "gold"}) for seq in range(1, 11)]
    assert simulate(gold, IN_FORCE).policies["login"].now_denied == 0
    envoys = [record(seq, START_MS, "", attributes={"ip": "10.0.0.1"}) for seq in range(1, 10)]
    report = simulate(envoys, IN_FORCE)
    assert report.policies["login"].now_denied == 1
    assert list(report.users) == ["ip=10.0.0.1"]
    routes = [record(seq, START_MS, "", action="route", attributes={"route": "/a"}) for seq in range(1, 3)]
    assert simulate(routes, IN_FORCE).policies["route"].now_denied == 1


@pytest.mark.parametrize(
    ("cause", "rest"),
    [
        ("banned", {"outcome": "ban", "reason": "banned"}),
        ("degraded", {"degraded": True}),
        ("open", {"outcome": "deny", "reason": "open"}),
        ("reported", {"reported": True, "cost": 500}),
    ],
)
def test_what_no_limit_decided_stays_as_it_was(cause: str, rest: dict[str, Any]) -> None:
    report = simulate([record(1, **rest), *[record(seq) for seq in range(2, 5)]], IN_FORCE, IN_FORCE)
    assert report.not_simulated == {cause: 1}
    assert report.policies["login"] == PolicyChanges(3, still_allowed=3), "it took nothing"
    assert report.truth is not None
    assert report.truth.not_judged == {cause: 1}


@pytest.mark.parametrize(
    ("cause", "rest"),
    [
        ("cached", {"outcome": "deny", "reason": "limit", "cached": True}),
        ("throttled", {"factor": 500}),
        ("throttled", {"outcome": "deny", "reason": "throttled", "factor": 1}),
        ("other document", {"policy_version": "other"}),
        ("invalid", {"cost": 9}),
    ],
)
def test_what_buckets_did_not_decide_alone_is_simulated_but_not_judged(cause: str, rest: dict[str, Any]) -> None:
    report = simulate([record(1, **rest)], make(9), IN_FORCE)
    assert report.policies["login"].checks == 1
    assert report.truth is not None
    assert report.truth.not_judged == {cause: 1}
    assert report.truth.judged == 0


def test_differences_at_the_edge_of_the_record_or_of_a_millisecond_are_explained() -> None:
    before = simulate([record(outcome="deny", reason="limit")], IN_FORCE, IN_FORCE).truth
    assert before is not None
    assert before.differences == {"before the record": 1}
    one_ms = [record(seq, START_MS + 60_000) for seq in range(1, 6)]
    together = simulate([record(9, START_MS), *one_ms], IN_FORCE, IN_FORCE).truth
    assert together is not None
    assert together.differences == {"same millisecond": 2}


def test_a_factor_lowers_what_the_candidate_lets_pass() -> None:
    records = [record(seq, START_MS, factor=340) for seq in range(1, 4)]
    assert simulate(records, IN_FORCE).policies["login"].now_denied == 2
    later = [*records, *[record(seq, START_MS + 10_000) for seq in range(4, 7)]]
    assert simulate(later, IN_FORCE).policies["login"].now_denied == 2, "its traces are gone when the bucket is full"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2_000),
            st.sampled_from(["a", "b"]),
            st.sampled_from([1, 1, 2, -1]),
            st.sampled_from([1000, 1000, 1000, 400]),
        ),
        max_size=40,
    )
)
def test_a_replay_decides_as_the_specification(steps: list[tuple[int, str, int, int]]) -> None:
    replay, buckets, at_ms = Replay(IN_FORCE), {}, START_MS  # type: ignore[var-annotated] # of Bucket
    for seq, (pause_ms, user, cost, factor) in enumerate(steps, 1):
        at_ms += pause_ms
        plan = make_plan(user, "login", attributes={"ip": "10.0.0.1"}, policies=IN_FORCE)
        stored, taken = take(
            [buckets.get(key) for key in plan.bucket_keys],
            [limit.terms for limit in plan.limits],
            [limit.is_shadow for limit in plan.limits],
            [cost] * len(plan.limits),
            factor,
            at_ms * 1000,
        )
        buckets.update({key: bucket for key, bucket in zip(plan.bucket_keys, stored, strict=True) if bucket})
        asked = replay.ask(record(seq, at_ms, user, cost=cost, factor=factor, attributes={"ip": "10.0.0.1"}))
        replay.settle(is_taken=asked == Status.ALLOW)
        assert asked == taken.status


def test_memory_is_bounded_and_what_is_full_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "MOST_BUCKETS", 8)
    monkeypatch.setattr(simulation, "MOST_PLANS", 4)
    monkeypatch.setattr(simulation, "MOST_USERS", 4)
    records = [record(seq, START_MS + seq * 10_000, f"user{seq}", cost=2) for seq in range(1, 30)]
    report = simulate(records, make(1), IN_FORCE)
    assert report.policies["login"].now_denied == 29
    assert len(report.users) <= 4
    assert not report.are_users_complete
    assert simulate(records, IN_FORCE).forgotten == 0 or simulate(records, IN_FORCE).forgotten < 29
    crowd = [record(seq, START_MS, f"user{seq}") for seq in range(1, 30)]
    assert simulate(crowd, IN_FORCE).forgotten > 0


def test_a_plain_decision_has_no_cause_besides_the_buckets() -> None:
    assert find_cause(record()) is None
    assert Truth().is_sound
