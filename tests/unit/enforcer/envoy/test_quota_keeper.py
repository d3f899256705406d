"""Quotas as they stand, with buckets by the specification in place of Redis and data planes that fill as Envoy does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from enforcer.calls.decider import Answer, Decider
from enforcer.decisions.decision import Ban, Decision, Reading
from enforcer.decisions.fallback import Fallback
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.decisions.refusals import Refusals
from enforcer.envoy import quota_keeper
from enforcer.envoy.quota import ALLOW_ALL, DENY_ALL, LEAST_DEMAND, WHOLE, Assignment, find_level
from enforcer.envoy.quota_keeper import IDLE_REPORTS, INSTALMENT_S, LEAST_LIFETIME_S, QuotaKeeper, Stream
from enforcer.envoy.quota_usage import BucketId, Usage
from enforcer.events.emission import Emitter
from enforcer.limits.bucket import UNLOWERED, Bucket, Status, take
from enforcer.stores.quota_store import QuotaStore, ShareRequest
from enforcer.stores.store import Receive, RedisStore
from tests.unit.enforcer.builders import make_policies

POLICIES = """
version: 1
subjects: [user, ip]
policies:
  - name: api
    match: { action: api }
    limits:
      - { name: everybody, per: [], capacity: 100000, refill: 100000/1s }
      - { name: per_user, per: [user], capacity: 100, refill: 100/1s }
  - name: login
    match: { action: login }
    limits: [{ name: per_user, per: [user], capacity: 5, refill: 5/1m }]
    without_redis: deny
  - { name: free, match: { action: free }, limits: [], without_redis: deny }
  - name: default
    match: { action: "*" }
    limits: [{ name: per_user, per: [user], capacity: 100, refill: 100/1s }]
    without_redis: allow
"""
ALICE: BucketId = (("user", "alice"),)
BOB: BucketId = (("user", "bob"),)
REPORT_S = 5.0


@dataclass
class FakeRedis:
    """What ``check.lua`` does, by its specification."""

    now_s: float = 1000.0
    factor: int = UNLOWERED
    ban: Ban | None = None
    is_away: bool = False
    buckets: dict[str, Bucket] = field(default_factory=dict)

    def take(self, plan: Plan, answer: Answer, receive: Receive) -> None:
        now_us = int(self.now_s * 1_000_000)
        if self.is_away:
            receive(plan, answer, None)
            return
        if self.ban is not None:
            receive(plan, answer, Reading(now_us, Status.BAN, ban=self.ban))
            return
        stored, taken = take(
            [self.buckets.get(key) for key in plan.bucket_keys],
            [limit.terms for limit in plan.limits],
            [limit.is_shadow for limit in plan.limits],
            plan.cost_of_each,
            self.factor,
            now_us,
        )
        self.buckets.update({key: bucket for key, bucket in zip(plan.bucket_keys, stored, strict=True) if bucket})
        receive(plan, answer, Reading(now_us, taken.status, self.factor, taken.refused, taken.refused_at_1, taken.levels))


@dataclass
class FakeShares:
    """What ``share_quota.lua`` does, for the enforcers of one test."""

    redis: FakeRedis
    others: dict[str, int] = field(default_factory=dict)
    """Demand of other enforcers, by the key of a bucket; they have given back whatever is not theirs."""
    on_change: Callable[[str], None] = lambda _: None

    def listen(self, on_change: Callable[[str], None]) -> None:
        self.on_change = on_change

    async def ask(self, requests: Sequence[ShareRequest], ttl_ms: int) -> list[int] | None:
        assert ttl_ms > LEAST_LIFETIME_S * 1000
        return None if self.redis.is_away else [self._grant(request) for request in requests]

    def _grant(self, request: ShareRequest) -> int:
        others = [self.others[request.bucket_key]] if request.bucket_key in self.others else []
        level, extra = find_level([request.demand, *others], WHOLE)
        return min(request.demand, level) + extra


@dataclass
class Kept:
    """A keeper with what it offers for emission."""

    redis: FakeRedis = field(default_factory=FakeRedis)
    offered: list[tuple[Plan, Decision]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shares = FakeShares(self.redis)
        decider = Decider(
            Planner(make_policies(POLICIES)), cast("RedisStore", self.redis), Refusals(), Fallback(4), cast("Emitter", self)
        )
        self.keeper = QuotaKeeper(decider, cast("QuotaStore", self.shares), lambda: self.redis.now_s)

    def offer(self, plan: Plan, decision: Decision) -> None:
        self.offered.append((plan, decision))

    def open(self, domain: str = "api") -> Stream:
        stream = self.keeper.open(domain)
        assert stream is not None
        return stream

    async def report(
        self, stream: Stream, allowed: int, denied: int = 0, bucket: BucketId = ALICE, after_s: float = 0
    ) -> Assignment:
        """Report after a while; what the bucket is assigned."""
        self.redis.now_s += after_s
        await self.keeper.report(stream, [Usage(bucket, allowed, denied)])
        told = stream.outbox[bucket]
        assert told is not None
        return told.assignment

    def spend(self, count: int) -> int:
        """Check as other callers do, each for one token; how many passed."""
        plan = quota_keeper.plan_bucket(self.keeper.decider.planner, "api", ALICE)
        statuses: list[int] = []

        def receive(_: Plan, __: Answer, reading: Reading | None) -> None:
            statuses.append(Status.FAILED if reading is None else reading.status)

        for _ in range(count):
            self.redis.take(
                plan, lambda _, __: None, lambda _, __, reading: statuses.append(reading.status if reading else Status.FAILED)
            )
        return statuses.count(Status.ALLOW)


@dataclass
class DataPlane:
    """Decides by its last assignment, as Envoy does, and reports every five seconds."""

    kept: Kept
    offset_s: float = 0.0
    stream: Stream = field(init=False)
    level: float = 0.0
    terms: Assignment = DENY_ALL
    allowed: int = 0
    denied: int = 0
    total: int = 0
    filled_s: float = 0.0
    is_subscribed: bool = False

    def __post_init__(self) -> None:
        self.stream = self.kept.open()
        self.reports_s = self.kept.redis.now_s + self.offset_s

    def send(self, count: int) -> None:
        now_s = self.kept.redis.now_s
        if self.terms.kind == "bucket":
            rate = self.terms.tokens_per_fill / self.terms.fill_interval_s
            self.level = min(self.terms.max_tokens, self.level + (now_s - self.filled_s) * rate)
        self.filled_s = now_s
        passed = {"allow": count, "deny": 0, "bucket": min(count, int(self.level))}[self.terms.kind]
        self.level -= passed
        self.allowed += passed
        self.denied += count - passed
        self.total += passed

    async def report(self) -> None:
        now_s = self.kept.redis.now_s
        if now_s >= self.reports_s and (self.is_subscribed or self.allowed or self.denied):
            self.reports_s, self.is_subscribed = now_s + REPORT_S, True
            usage = Usage(ALICE, self.allowed, self.denied)
            self.allowed = self.denied = 0
            await self.kept.keeper.report(self.stream, [usage])
        if ALICE not in self.stream.outbox:
            return
        told = self.stream.outbox.pop(ALICE)
        if told is None:
            self.is_subscribed, self.terms = False, DENY_ALL
        elif told.assignment != self.terms:
            # A new bucket keeps the ratio of the one before; after a blanket rule it is full.
            ratio = self.level / self.terms.max_tokens if self.terms.kind == "bucket" else 1
            self.level, self.terms = ratio * told.assignment.max_tokens, told.assignment


async def play(kept: Kept, planes: Sequence[DataPlane], rates: Callable[[float], Sequence[float]], for_s: float) -> list[int]:
    """Let time pass: what data planes and other callers (the last rate) let pass in each second."""
    started_s, spent = kept.redis.now_s, -sum(plane.total for plane in planes)
    passed: list[int] = []
    steps = round(1 / INSTALMENT_S)
    for _ in range(int(for_s)):
        for _ in range(steps):
            kept.redis.now_s += INSTALMENT_S
            *each, others = rates(kept.redis.now_s - started_s)
            for plane, rate in zip(planes, each, strict=True):
                plane.send(int(rate / steps))
                await plane.report()
            spent += kept.spend(int(others / steps))
            await kept.keeper.step()
        passed.append(spent + sum(plane.total for plane in planes) - sum(passed))
    return passed


async def test_one_data_plane_gets_the_whole_limit_and_uses_it() -> None:
    kept = Kept()
    passed = await play(kept, [DataPlane(kept)], lambda _: (400, 0), 60)
    assert 95 <= sum(passed[10:]) / 50 <= 105


async def test_two_data_planes_share_a_limit_by_their_demand() -> None:
    kept = Kept()
    planes = [DataPlane(kept), DataPlane(kept, 2.0)]
    await play(kept, planes, lambda _: (20, 400, 0), 20)
    before = [plane.total for plane in planes]
    await play(kept, planes, lambda _: (20, 400, 0), 40)
    modest, greedy = ((plane.total - total) / 40 for plane, total in zip(planes, before, strict=True))
    assert modest == pytest.approx(20, rel=0.05)
    assert greedy == pytest.approx(80, rel=0.07)


@pytest.mark.parametrize(
    ("rates", "surges", "least_per_s"),
    [
        (lambda _: (400, 400, 0), 1, 98),
        (lambda _: (400, 0, 80), 1, 95),
        (lambda at_s: (400 if at_s > 20 else 0, 400, 400), 2, 98),
        (
            lambda at_s: (400 if at_s % 20 < 10 else 0, 400 if at_s % 20 >= 10 else 0, 0),
            1,
            45,
        ),  # half of a turn goes by unheard
    ],
    ids=["two greedy", "with other callers", "a latecomer", "by turns"],
)
async def test_all_together_stay_within_the_limit_and_an_interval_of_shares_for_each_surge_and_one_more(
    rates: Callable[[float], Sequence[float]], surges: int, least_per_s: float
) -> None:
    kept = Kept()
    passed = await play(kept, [DataPlane(kept), DataPlane(kept, 1.5)], rates, 100)
    in_flight = (surges + 1) * (100 + 100 * REPORT_S)
    for start in range(0, 100, 10):
        for end in range(start + 10, 101, 10):
            assert sum(passed[start:end]) <= 100 + 100 * (end - start) + in_flight
    assert least_per_s <= sum(passed[20:]) / 80 <= 105


async def test_another_enforcer_has_its_part() -> None:
    kept = Kept()
    kept.shares.others["rate_limit:{user=alice}:api:per_user"] = WHOLE
    assert await kept.report(kept.open(), 1) == Assignment("bucket", 50, 500, 10)


async def test_what_another_enforcer_gave_back_is_handed_on_at_once() -> None:
    kept, key = Kept(), "rate_limit:{user=alice}:api:per_user"
    kept.shares.others[key] = WHOLE
    stream = kept.open()
    await kept.report(stream, 1)
    kept.shares.others[key] = LEAST_DEMAND
    kept.shares.on_change(key)
    await kept.keeper.step()
    told = stream.outbox[ALICE]
    assert told is not None
    assert told.assignment.tokens_per_fill / told.assignment.fill_interval_s == pytest.approx(99)


async def test_a_newcomer_takes_from_the_others_at_once() -> None:
    kept = Kept()
    first, second = kept.open(), kept.open()
    await kept.report(first, 1)
    first.outbox.clear()
    assert (await kept.report(second, 1)).tokens_per_fill == 500
    told = first.outbox[ALICE]
    assert told is not None
    assert told.assignment.tokens_per_fill == 500


BAN = Ban(2_000_000_000, 1, "brute_force", "v1", "user=alice", ("*",))


async def test_a_ban_is_told_as_deny_all_at_once_and_its_end_too() -> None:
    kept = Kept()
    stream = kept.open()
    await kept.report(stream, 1)
    kept.redis.ban = BAN
    kept.shares.on_change("user=alice")
    await kept.keeper.step()
    assert stream.outbox[ALICE] == (DENY_ALL, LEAST_LIFETIME_S)
    kept.redis.ban = None
    kept.shares.on_change("user=alice")
    await kept.keeper.step()
    told = stream.outbox[ALICE]
    assert told is not None
    assert told.assignment.kind == "bucket"


async def test_a_changed_factor_is_told_at_once() -> None:
    kept = Kept()
    stream = kept.open()
    await kept.report(stream, 1)
    kept.redis.factor = 250
    kept.shares.on_change("user=alice")
    await kept.keeper.step()
    assert stream.outbox[ALICE] == (Assignment("bucket", 25, 250, 10), LEAST_LIFETIME_S)


async def test_without_a_limit_all_pass() -> None:
    kept = Kept()
    assert await kept.report(kept.open("free"), 1) == ALLOW_ALL
    assert await kept.report(kept.open(), 1, bucket=(("colour", "red"),)) == Assignment("bucket", 100_000, 100_000, 1)


@pytest.mark.parametrize(("domain", "kind"), [("api", "bucket"), ("login", "deny"), ("other", "allow"), ("free", "allow")])
async def test_without_redis_the_policy_says_what_happens(domain: str, kind: str) -> None:
    kept = Kept()
    stream = kept.open(domain)
    await kept.report(stream, 1)
    kept.redis.is_away = True
    told = await kept.report(stream, 5, after_s=5)
    assert told.kind == kind
    if kind == "bucket":
        assert (told.max_tokens, told.tokens_per_fill / told.fill_interval_s) == (25, 25), "one of four enforcers"


async def test_an_unused_bucket_is_abandoned_and_its_share_goes_to_others() -> None:
    kept = Kept()
    idle, busy = kept.open(), kept.open()
    await kept.report(busy, 1)
    for _ in range(IDLE_REPORTS):
        await kept.keeper.report(idle, [Usage(ALICE, 0, 0)])
        kept.redis.now_s += REPORT_S
    assert idle.outbox == {ALICE: None}
    assert len(kept.keeper) == 1
    assert (await kept.report(busy, 500, 500)).tokens_per_fill == 1000


async def test_a_bucket_that_is_reported_no_more_is_given_up() -> None:
    kept = Kept()
    stream = kept.open()
    await kept.report(stream, 1)
    kept.redis.now_s += LEAST_LIFETIME_S + 1
    await kept.keeper.step()
    assert stream.outbox == {ALICE: None}
    assert len(kept.keeper) == 0


async def test_the_share_of_a_lost_data_plane_goes_to_the_others() -> None:
    kept = Kept()
    lost, other = kept.open(), kept.open()
    await kept.report(lost, 1)
    assert (await kept.report(other, 1)).tokens_per_fill == 500
    kept.keeper.close(lost)
    assert (await kept.report(other, 250, 500, after_s=5)).tokens_per_fill == 1000
    assert len(kept.keeper) == 1


async def test_the_least_used_bucket_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_keeper, "MOST_BUCKETS", 2)
    kept = Kept()
    stream = kept.open()
    await kept.report(stream, 1)
    await kept.report(stream, 1, bucket=BOB)
    await kept.report(stream, 1)
    await kept.report(stream, 1, bucket=(("user", "carol"),))
    assert stream.outbox[BOB] is None
    assert len(kept.keeper) == 2


async def test_too_many_streams_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_keeper, "MOST_STREAMS", 1)
    kept = Kept()
    stream = kept.open()
    assert kept.keeper.open("api") is None
    kept.keeper.close(stream)
    assert kept.keeper.open("api") is not None


async def test_new_policies_are_told_with_the_next_report() -> None:
    kept = Kept()
    stream = kept.open()
    await kept.report(stream, 1)
    kept.keeper.decider.planner = Planner(
        make_policies(POLICIES.replace("capacity: 100, refill: 100/1s", "capacity: 100, refill: 50/1s", 1))
    )
    assert await kept.report(stream, 1, after_s=5) == Assignment("bucket", 100, 999, 20)


def facts(kept: Kept) -> list[tuple[str, str, int, int, int, bool]]:
    return [
        (decision.outcome, decision.reason, plan.check.cost, plan.check.suppressed, decision.refused_at_1, decision.is_degraded)
        for plan, decision in kept.offered
    ]


async def test_usage_is_emitted_by_outcome_and_before_an_assignment_as_degraded() -> None:
    kept = Kept()
    stream = kept.open("login")
    await kept.report(stream, 1, 3)
    assert facts(kept) == [("allow", "ok", 1, 0, 0, True), ("deny", "limit", 1, 2, 0, True)]
    assert all(decision.is_reported for _, decision in kept.offered)
    assert kept.offered[0][0].check.user_id == "alice"
    assert kept.offered[0][0].check.action == "login"


async def test_refusals_count_against_a_subject_only_beyond_the_whole_limit() -> None:
    kept = Kept()
    stream = kept.open("login")
    await kept.report(stream, 1)
    kept.offered.clear()
    await kept.report(stream, 2, 10, after_s=12)  # of 4 that were left and 1 that came 7 had been too many
    assert facts(kept) == [
        ("allow", "ok", 2, 0, 0, False),
        ("deny", "limit", 1, 6, 1, False),
        ("deny", "limit", 1, 2, 0, False),
    ]


async def test_refusals_by_a_ban_are_emitted_as_such() -> None:
    kept = Kept()
    kept.redis.ban = BAN
    stream = kept.open()
    await kept.report(stream, 0, 1)
    kept.offered.clear()
    await kept.report(stream, 0, 7, after_s=5)
    assert facts(kept) == [("ban", "banned", 1, 6, 0, False)]
    assert kept.offered[0][1].ban == BAN


async def test_nothing_counts_against_a_subject_while_a_factor_shows_in_its_levels() -> None:
    kept = Kept()
    kept.redis.factor = 100
    stream = kept.open("login")
    await kept.report(stream, 1)
    kept.redis.factor = UNLOWERED
    await kept.report(stream, 0, 100, after_s=5)
    await kept.report(stream, 0, 100, after_s=5)
    assert all(decision.refused_at_1 == 0 for _, decision in kept.offered)
    await kept.report(stream, 0, 1, after_s=60)
    await kept.report(stream, 0, 100, after_s=5)
    assert kept.offered[-2][1].refused_at_1 == 1


async def test_what_a_stream_asks_for_while_it_is_closed_is_forgotten() -> None:
    kept = Kept()
    stream = kept.open()
    work: Awaitable[None] = kept.keeper.report(stream, [Usage(ALICE, 1, 0)])
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    kept.keeper.close(stream)
    await task
    assert len(kept.keeper) == 0
