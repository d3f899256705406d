"""A check over several slots: the order in which it is asked, and that it comes to what one server would say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.decision import Ban, Reading
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import UNLOWERED, Bucket, Status, take
from enforcer.stores.cluster_plan import split_plan
from enforcer.stores.parted_check import PartedCheck
from enforcer.stores.store import RedisStore
from tests.unit.enforcer.builders import make_check, make_policies

POLICIES = """
version: 1
subjects: [user, ip, key]
policies:
  - name: default
    match: { action: "*" }
    limits:
      - { name: everybody, per: [], capacity: 9, refill: 2/1s }
      - { name: per_ip, per: [ip], capacity: 6, refill: 3/1s }
      - { name: trial, per: [ip], capacity: 3, refill: 1/1s, mode: shadow }
      - { name: pair, per: [user, key], capacity: 5, refill: 1/1s }
      - { name: per_user, per: [user], capacity: 4, refill: 1/1s }
"""
PLANNER = Planner(make_policies(POLICIES))
NOW_US = 1_700_000_000_000_000
FULL = {"ip": "203.0.113.7", "key": "k"}


class Server:
    """Buckets by the specification, and the bans of subjects; as one slot's node or as a whole Redis."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.bans: dict[str, Ban] = {}
        self.now_us = NOW_US
        self.asked: list[Plan] = []
        self.is_away = False

    def read(self, plan: Plan) -> Reading | None:
        self.asked.append(plan)
        if self.is_away:
            return None
        bans = [self.bans[subject] for subject in plan.subjects if subject in self.bans]
        if bans and plan.check.cost >= 0:
            return Reading(self.now_us, Status.BAN, ban=max(bans, key=lambda ban: ban.until_ms))
        terms = [limit.terms for limit in plan.limits]
        shadows = [limit.is_shadow for limit in plan.limits]
        before = [self.buckets.get(key) for key in plan.bucket_keys]
        after, taken = take(before, terms, shadows, plan.cost_of_each, UNLOWERED, self.now_us)
        self.buckets |= {key: new for key, new in zip(plan.bucket_keys, after, strict=True) if new is not None}
        return Reading(self.now_us, taken.status, UNLOWERED, taken.refused, taken.refused_at_1, taken.levels)

    def take(self, plan: Plan, answer: Any, receive: Callable[[Plan, Any, Reading | None], None]) -> None:
        asyncio.get_running_loop().call_soon(receive, plan, answer, self.read(plan))


async def ask(plan: Plan, servers: list[Server]) -> Reading | None:
    """Ask each part's server."""
    answered: asyncio.Future[Reading | None] = asyncio.get_running_loop().create_future()
    parts = split_plan(plan)
    nodes = cast("list[RedisStore]", servers * len(parts) if len(servers) == 1 else servers)
    entry = (plan, lambda *_: None, lambda _plan, _answer, reading: answered.set_result(reading))
    PartedCheck(parts, nodes, entry).start(60.0)
    reading = await answered
    await asyncio.sleep(0)  # refunds are on their way
    return reading


def make_plan(user: str = "u", cost: int = 1, **attributes: str) -> Plan:
    return PLANNER.plan(make_check(user, "search", cost, attributes or FULL))


def make_ban(subject: str, until_ms: int = 5) -> Ban:
    return Ban(until_ms, 1, "rule", "v1", subject, ("*",))


steps = st.lists(
    st.tuples(
        st.integers(0, 2_000_000),
        st.sampled_from(["u1", "u2", "u3"]),
        st.sampled_from(["203.0.113.7", "203.0.113.8"]),
        st.sampled_from(["k1", "k2"]),
        st.integers(0, 4),
        st.sampled_from([None, None, None, "user=u1", "ip=203.0.113.8", "key=k2"]),
    ),
    max_size=30,
)


@given(steps=steps)
def test_check_in_parts_comes_to_what_one_server_says(steps: list[tuple[int, str, str, str, int, str | None]]) -> None:
    cluster, single = Server(), Server()

    async def run() -> None:
        for later_us, user, ip, key, cost, banned in steps:
            for server in (cluster, single):
                server.now_us += later_us
                server.bans = {banned: make_ban(banned)} if banned else {}
            plan = make_plan(user, cost, ip=ip, key=key)
            assert await ask(plan, [cluster]) == single.read(plan)
            for limit, name in ((limit, name) for limit, name in zip(plan.limits, plan.bucket_keys, strict=True)):
                assert_same_level(cluster.buckets.get(name), single.buckets.get(name), limit.terms.capacity_units)

    asyncio.run(run())


def assert_same_level(one: Bucket | None, other: Bucket | None, full: int) -> None:
    """A refund may leave a bucket that is full where there was none, and brings one to the present that was not touched."""
    if one is not None and other is not None and one.time_ticks == other.time_ticks:
        assert one.level == other.level
    elif other is None:
        assert one is None or one.level == full


async def test_slots_are_asked_one_after_the_other_and_the_rest_is_read_where_one_refuses() -> None:
    server = Server()
    plan = make_plan()
    parts = split_plan(plan)
    takers = [part for part in parts if part.takes]
    assert len(takers) >= 3
    await ask(plan, [server])
    taking = [asked for asked in server.asked if any(cost > 0 for cost in asked.cost_of_each)]
    assert [asked.keys for asked in taking] == [part.plan.keys for part in takers]

    server.asked.clear()
    refusing = takers[1].plan
    for key, limit in zip(refusing.bucket_keys, refusing.limits, strict=True):
        server.buckets[key] = Bucket(0, NOW_US, limit.terms.tag, expires_us=2**60)
    reading = await ask(plan, [server])
    assert reading is not None
    assert reading.status == Status.LIMIT
    assert all(level >= 0 for level in reading.levels), "every limit's level is told"
    costs = {asked.keys: asked.cost_of_each for asked in server.asked}
    assert [asked.keys for asked in server.asked].count(takers[0].plan.keys) == 2, "it is asked, and given back"
    assert all(cost < 0 for cost in costs[takers[0].plan.keys])
    assert all(cost == 0 for cost in costs[takers[2].plan.keys])


async def test_ban_that_is_found_beside_a_take_has_it_given_back() -> None:
    server = Server()
    plan = make_plan()
    (reader, *_) = [part for part in split_plan(plan) if not part.takes]
    server.bans[reader.plan.subjects[0]] = make_ban(reader.plan.subjects[0])
    reading = await ask(plan, [server])
    assert reading is not None
    assert reading.status == Status.BAN
    for key, limit in zip(plan.bucket_keys, plan.limits, strict=True):
        assert_same_level(server.buckets.get(key), None, limit.terms.capacity_units)


async def test_slot_that_gives_no_answer_leaves_the_check_without_one_and_nothing_is_given_back() -> None:
    server, away = Server(), Server()
    away.is_away = True
    plan = make_plan()
    parts = split_plan(plan)
    last = max(place for place, part in enumerate(parts) if part.takes)
    nodes = [away if place == last else server for place in range(len(parts))]
    assert await ask(plan, nodes) is None
    assert all(cost >= 0 for asked in server.asked for cost in asked.cost_of_each)
