"""Nobody is banned wrongly: checks through plan, buckets, decision, folds, windows and ladder, all real, in event time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.document import Loaded, parse_document, read_document
from detector.backtest import Backtest
from detector.rules import Rules
from enforcer.decisions.decision import Ban, Decision, Reading, decide
from enforcer.decisions.planner import Planner
from enforcer.events.folding import Folder
from enforcer.limits.bucket import Bucket, Status, take
from enforcer.limits.check import Check
from enforcer.limits.policy import Policies
from enforcer.limits.policy_document import PoliciesDocument
from examples.access_log import ACTIONS_BY
from examples.replay import open_log
from examples.replay_plan import plan_replay
from topics.events import VerdictEvent
from topics.wire import FoldsEvent

T0 = 1_800_000_000_000
FLUSH_MS = 50
RULES = read_document(Path("config/rules.yaml"), Rules).model
SHIPPED = read_document(Path("config/policies.yaml"), PoliciesDocument)
REAL_LOG = Path(os.environ.get("RATCHET_ACCESS_LOG", Path(__file__).parents[3] / "shared" / "data" / "apache_logs"))
HOME, ELSEWHERE = "203.0.113.7", "198.51.100.9"

pauses = st.lists(st.integers(0, 900), min_size=60, max_size=120)
factors = st.sampled_from([50, 200, 500, 999])


class World:
    """One enforcer and one detector, without a network between them."""

    def __init__(self, document: Loaded[PoliciesDocument] = SHIPPED, at_ms: int = T0) -> None:
        self.policies = Policies.compile(document)
        self.planner = Planner(self.policies)
        self.folder = Folder(self.policies.foldable)
        self.backtest = Backtest(RULES)
        self.buckets: dict[str, Bucket] = {}
        self.flushes = 0
        self.at_ms = at_ms
        self.flushed_at_ms = at_ms

    def check(
        self, user: str, ip: str = HOME, *, action: str = "login", factor: int = 1000, is_degraded: bool = False
    ) -> Decision:
        plan = self.planner.plan(Check(user, action, 1, {"ip": ip} if ip else {}))
        now_us = self.at_ms * 1000
        ban = self.find_ban(plan.subjects)
        if ban is not None:
            reading = Reading(now_us, Status.BAN, ban=ban)
        elif is_degraded:
            refused = (1 << len(plan.limits)) - 1
            reading = Reading(
                now_us,
                Status.LIMIT,
                refused=refused,
                refused_at_1=refused,
                levels=(0,) * len(plan.limits),
                is_degraded=True,
            )
        else:
            stored, taken = take(
                [self.buckets.get(key) for key in plan.bucket_keys],
                [limit.terms for limit in plan.limits],
                [limit.is_shadow for limit in plan.limits],
                [1] * len(plan.limits),
                factor,
                now_us,
            )
            self.buckets.update({key: one for key, one in zip(plan.bucket_keys, stored, strict=True) if one})
            reading = Reading(now_us, taken.status, factor, taken.refused, taken.refused_at_1, tuple(taken.levels))
        decision = decide(plan, reading)
        self.folder.add(plan, decision)
        return decision

    def find_ban(self, subjects: tuple[str, ...]) -> Ban | None:
        for verdict in self.backtest.bans:
            until_ms = verdict.ban_until_ms or 0
            if verdict.subject in subjects and verdict.at_ms < self.at_ms < until_ms:
                return Ban(until_ms, verdict.level, verdict.rule, verdict.verdict_id, verdict.subject, verdict.scope)
        return None

    def wait(self, pause_ms: int) -> None:
        self.at_ms += pause_ms
        if self.at_ms >= self.flushed_at_ms + FLUSH_MS:
            self.flush()

    def flush(self) -> None:
        self.flushed_at_ms = self.at_ms
        folds = self.folder.take()
        if folds:
            self.flushes += 1
            record = FoldsEvent("a/0/1", self.flushes, self.at_ms, folds)
            self.backtest.feed(0, self.flushes, record, taken_ms=self.at_ms)

    def finish(self) -> list[VerdictEvent]:
        self.flush()
        return self.backtest.verdicts


def change(old: str, new: str) -> Loaded[PoliciesDocument]:
    assert old in SHIPPED.text
    return parse_document(SHIPPED.text.replace(old, new), PoliciesDocument, name="changed")


@given(pauses)
@settings(max_examples=25, deadline=None)
def test_who_hammers_on_is_banned_once_for_it_and_a_ban_leads_to_no_other(waits: list[int]) -> None:
    world = World()
    outcomes = []
    for pause_ms in waits:
        outcomes.append(world.check("mallory").outcome)
        world.wait(10 + pause_ms // 2)
    verdicts = world.finish()
    assert outcomes.count("ban") > 0, "60 attempts within half a minute"
    assert [verdict.subject for verdict in verdicts if verdict.result == "applied"] == ["user=mallory"]


@given(waits=pauses, factor=factors)
@settings(max_examples=25, deadline=None)
def test_nobody_is_banned_because_of_a_throttle(waits: list[int], factor: int) -> None:
    world = World()
    throttled = 0
    for number, pause_ms in enumerate(waits):
        # Each user asks four times in all: a limit at factor 1 refuses none of that.
        decision = world.check(f"user-{number // 4}", f"10.0.{number // 20}.1", factor=factor)
        throttled += decision.reason == "throttled"
        world.wait(pause_ms % 10)
    assert world.finish() == []
    assert throttled or factor == 999


@given(pauses)
@settings(max_examples=15, deadline=None)
def test_nobody_is_banned_because_of_a_limit_in_shadow_mode(waits: list[int]) -> None:
    world = World(change("# mode: shadow # puts every", "mode: shadow # puts every"))
    decisions = []
    for pause_ms in waits:
        decisions.append(world.check("mallory"))
        world.wait(pause_ms)
    assert world.finish() == []
    assert any(decision.is_shadow for decision in decisions)


@given(pauses)
@settings(max_examples=15, deadline=None)
def test_nobody_is_banned_because_of_an_outage(waits: list[int]) -> None:
    world = World()
    for pause_ms in waits:
        assert world.check("mallory", is_degraded=True).outcome == "deny"
        world.wait(pause_ms)
    assert world.finish() == []


@given(waits=pauses, victims=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_user_is_not_banned_for_the_limit_of_an_address_that_somebody_else_drained(waits: list[int], victims: int) -> None:
    world = World()
    refused = 0
    for number, pause_ms in enumerate(waits):
        for attempt in range(3):
            world.check(f"stuffed-{number}-{attempt}")
        if number % 30 == 0:
            for victim in range(victims):
                refused += world.check(f"victim-{victim}").outcome != "allow"
        world.wait(pause_ms % 100)
    verdicts = world.finish()
    assert refused > 0, "the address was drained"
    assert [verdict.subject for verdict in verdicts if not verdict.subject.startswith("ip=")] == []


@given(pauses)
@settings(max_examples=15, deadline=None)
def test_nobody_is_banned_for_a_limit_of_all_that_somebody_else_drained(waits: list[int]) -> None:
    world = World(change("- { name: per_ip, per: [ip], capacity: 30", "- { name: everybody, per: [], capacity: 30"))
    refused = 0
    for number, pause_ms in enumerate(waits):
        world.check(f"crowd-{number}", ELSEWHERE)
        refused += world.check("victim").outcome != "allow" if number % 12 == 0 else 0
        world.wait(pause_ms % 100)
    assert world.finish() == []
    assert refused > 0


@given(users=st.integers(10, 65), minutes=st.integers(2, 6))
@settings(max_examples=10, deadline=None)
def test_office_behind_one_address_is_never_banned(users: int, minutes: int) -> None:
    world = World()
    for _ in range(minutes):
        for user in range(users):
            world.check(f"employee-{user}")
            world.wait(60_000 // users)
    assert [verdict for verdict in world.finish() if verdict.penalty == "ban"] == []


@given(pauses)
@settings(max_examples=15, deadline=None)
def test_office_next_door_to_an_attacker_is_not_banned(waits: list[int]) -> None:
    world = World()
    for number, pause_ms in enumerate(waits):
        world.check("mallory")
        if number % 20 == 0:
            world.check(f"employee-{number}")
        world.wait(min(pause_ms, 500))
    assert {verdict.subject for verdict in world.finish() if verdict.penalty == "ban"} == {"user=mallory"}


@given(waits=pauses, schedule=st.lists(st.sampled_from([50, 200, 500, 1000]), min_size=1, max_size=10))
@settings(max_examples=25, deadline=None)
def test_attacker_who_causes_an_overload_is_still_banned(waits: list[int], schedule: list[int]) -> None:
    world = World()
    for number, pause_ms in enumerate(waits):
        world.check("mallory", factor=schedule[number % len(schedule)])
        world.wait(min(pause_ms, 400))
    bans = world.backtest.bans or [verdict for verdict in world.finish() if verdict.penalty == "ban"]
    assert [verdict.subject for verdict in bans] == ["user=mallory"]


@pytest.mark.skipif(not REAL_LOG.exists(), reason="no real access log: name one with RATCHET_ACCESS_LOG")
@pytest.mark.parametrize("by", ["kind", "path-prefix", "method"])
def test_real_traffic_with_its_crawlers_judged_in_its_own_time_gets_nobody_banned(by: str) -> None:
    with open_log(REAL_LOG) as lines:
        plan = plan_replay(lines, action_of=ACTIONS_BY[by], limit=1_000_000)
    world = World(at_ms=plan.timed[0][1].at_ms)
    for _, request in plan.timed:
        world.wait(request.at_ms - world.at_ms)
        world.check(request.user, request.ip, action=request.action)
    assert [verdict for verdict in world.finish() if verdict.penalty == "ban"] == []
