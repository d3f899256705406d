"""How a check is split by slots, and what its parts' readings come to."""

from __future__ import annotations

import msgspec
import pytest
from redis.crc import key_slot

from enforcer.decisions.decision import Ban, Reading, Warned
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import Status
from enforcer.stores.cluster_plan import Part, give_back, judge_unasked, merge_readings, read_only, split_plan
from tests.unit.enforcer.builders import POLICIES_IN_FORCE, make_check, make_plan

TOKEN = 60_000_000
IP = {"ip": "203.0.113.7"}
NOW_US = 1_700_000_000_000_000


def split_login(user: str = "alice", cost: int = 1) -> tuple[Plan, Part, Part]:
    """A check of a user and an ip: the whole, the ip's part and the user's part."""
    plan = make_plan(user, cost=cost, attributes=IP)
    parts = {part.plan.subjects[0][:2]: part for part in split_plan(plan)}
    return plan, parts["ip"], parts["us"]


def test_check_whose_keys_share_a_tag_is_one_part() -> None:
    plan = make_plan()
    (part,) = split_plan(plan)
    assert part.plan is plan
    assert (part.slot, part.positions) == (key_slot(b"user=alice"), (0,))


def test_each_part_has_the_keys_of_one_slot_and_parts_are_in_the_order_of_slots() -> None:
    for number in range(20):
        plan = make_plan(f"user-{number}", attributes=IP)
        parts = split_plan(plan)
        assert [part.slot for part in parts] == sorted({key_slot(key.encode()) for key in plan.keys})
        for part in parts:
            assert {key_slot(key.encode()) for key in part.plan.keys} == {part.slot}
            assert len(part.plan.keys) == len(part.plan.subjects) + len(part.positions)
        assert sorted(key for part in parts for key in part.plan.keys) == sorted(plan.keys)


def test_part_knows_its_subjects_and_limits() -> None:
    plan, ip, user = split_login()
    assert (ip.plan.subjects, ip.plan.template.kinds) == (("ip=203.0.113.7",), ("ip",))
    assert [limit.name for limit in ip.plan.limits] == [plan.limits[position].name for position in ip.positions] == ["per_ip"]
    assert [limit.name for limit in user.plan.limits] == ["per_user"]
    assert user.plan.check is plan.check


def test_checks_of_one_form_share_the_templates_of_their_parts() -> None:
    names = [f"user-{number}" for number in range(20)]
    planner = Planner(POLICIES_IN_FORCE)
    parts = [part for name in names for part in split_plan(planner.plan(make_check(name, attributes=IP)))]
    assert len({part.plan.template for part in parts}) == 2


def test_costs_of_each_limit_go_with_the_limits() -> None:
    plan = msgspec.structs.replace(make_plan(attributes=IP), costs=(7, 0))
    parts = {part.plan.subjects[0][:2]: part for part in split_plan(plan)}
    assert (parts["ip"].plan.costs, parts["ip"].takes) == ((7,), True)
    assert (parts["us"].plan.costs, parts["us"].takes) == ((0,), False)


def test_part_without_limits_takes_nothing() -> None:
    parts = {part.plan.subjects[0][:2]: part for part in split_plan(make_plan(action="free", attributes=IP))}
    assert not parts["ip"].takes
    assert parts["ip"].plan.limits == ()


def test_part_that_is_only_read_costs_nothing() -> None:
    _, ip, _ = split_login(cost=3)
    assert read_only(ip).cost_of_each == (0,)
    assert read_only(ip).keys == ip.plan.keys


def test_refund_is_of_what_was_taken_alone() -> None:
    plan = make_plan(action="shared", cost=2)
    part = Part(0, plan, (0, 1))
    refund, _ = give_back(part, Reading(NOW_US, Status.ALLOW, levels=(0, 0)))
    assert refund.cost_of_each == (-2, -2)
    refund, untouched = give_back(part, Reading(NOW_US, Status.ALLOW, refused=0b10, levels=(3, 4)))
    assert refund.cost_of_each == (-2, 0), "a limit in shadow mode that had too little has paid nothing"
    assert refund.check.cost < 0
    assert untouched.levels == (3 + 2 * plan.limits[0].terms.period_ticks, 4)


@pytest.mark.parametrize(
    ("factor", "level", "expected"),
    [
        (1000, 2 * TOKEN, (Status.ALLOW, 0, 0)),
        (1000, 2 * TOKEN - 1, (Status.LIMIT, 1, 1)),
        (500, 2 * TOKEN - 1, (Status.THROTTLED, 1, 0)),
    ],
)
def test_part_that_was_only_read_is_judged_by_its_level(factor: int, level: int, expected: tuple[int, int, int]) -> None:
    _, ip, _ = split_login(cost=2)
    found = judge_unasked(ip, Reading(NOW_US, Status.ALLOW, factor, levels=(level,)))
    assert (found.status, found.refused, found.refused_at_1) == expected


def test_shadow_limit_that_was_only_read_refuses_nothing() -> None:
    part = Part(0, make_plan(action="shared", cost=2), (0, 1))
    found = judge_unasked(part, Reading(NOW_US, Status.ALLOW, levels=(10_000_000, 0)))
    assert (found.status, found.refused) == (Status.ALLOW, 0b10)


BAN = Ban(5, 1, "rule", "v1", "user=alice", ("*",))


def test_ban_that_was_only_read_stays_one() -> None:
    _, _, user = split_login()
    reading = Reading(NOW_US, Status.BAN, ban=BAN)
    assert judge_unasked(user, reading) is reading


def test_readings_come_together_in_the_order_of_the_limits() -> None:
    plan, ip, user = split_login()
    readings = [
        Reading(NOW_US + 5, Status.ALLOW, 700, 0, 0, (4 * TOKEN,), sent_s=2.0),
        Reading(NOW_US, Status.LIMIT, 1000, 1, 1, (7,), warned=Warned(9, "rule", "v1", "ip=203.0.113.7"), sent_s=1.0),
    ]
    merged = merge_readings(plan, (user, ip), readings)
    assert [limit.name for limit in plan.limits] == ["per_ip", "per_user"]
    assert merged == Reading(NOW_US, Status.LIMIT, 700, 0b01, 0b01, (7, 4 * TOKEN), warned=readings[1].warned, sent_s=1.0), (
        "by the clock of the slot that refused"
    )


def test_limit_refuses_before_a_throttle() -> None:
    plan, ip, user = split_login()
    throttled = Reading(NOW_US, Status.THROTTLED, 500, 1, 0, (0,))
    assert merge_readings(plan, (user, ip), [throttled, Reading(NOW_US, Status.ALLOW, levels=(1,))]).status == Status.THROTTLED
    refused = Reading(NOW_US, Status.LIMIT, 1000, 1, 1, (0,))
    assert merge_readings(plan, (user, ip), [throttled, refused]).status == Status.LIMIT


def test_longest_ban_of_all_slots_wins() -> None:
    plan, ip, user = split_login()
    longer = msgspec.structs.replace(BAN, until_ms=6, subject="ip=203.0.113.7")
    readings = [Reading(NOW_US, Status.BAN, ban=BAN, sent_s=1.0), Reading(NOW_US + 1, Status.BAN, ban=longer, sent_s=2.0)]
    assert merge_readings(plan, (user, ip), readings) == Reading(NOW_US + 1, Status.BAN, ban=longer, sent_s=1.0)
