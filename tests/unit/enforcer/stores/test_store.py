"""One call for many checks: what is packed, and how its results are read."""

from __future__ import annotations

import hiredis
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.decision import Ban, Reading, Warned
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.decisions.throttling import CLOSED, Throttling
from enforcer.limits.bucket import Status
from enforcer.stores.store import pack_call, read_result
from lua.scripts import CHECK
from tests.unit.enforcer.builders import POLICIES_IN_FORCE, make_check, make_plan

NOW_US = 1_700_000_000_000_000
TOKEN = 60_000_000
IP = {"ip": "203.0.113.7"}


def unpack(command: bytes) -> list[str]:
    reader = hiredis.Reader(encoding="utf-8")
    reader.feed(command)
    words: list[str] = reader.gets()
    assert reader.gets() is False, "one command"
    return words


def interpret(
    command: bytes,
) -> tuple[int, list[tuple[list[str], str, int | tuple[int, ...], list[tuple[list[object], bool]]]]]:
    """Read a call as the script's header tells: for each check its keys, action, cost, and limits."""
    name, sha, count, *rest = unpack(command)
    assert (name, sha) == ("EVALSHA", CHECK.sha)
    keys, argv = rest[: int(count)], iter(rest[int(count) :])
    assert next(argv) == "", "the server's own clock"
    deadline_us = int(next(argv))
    terms = [[*(int(next(argv)) for _ in range(4)), next(argv), int(next(argv))] for _ in range(int(next(argv)))]
    shapes = []
    for _ in range(int(next(argv))):
        action, costs = next(argv), [int(cost) for cost in next(argv).split(",")]
        factor, subjects, limits = (int(next(argv)) for _ in range(3))
        assert factor == 1000
        indexes = [int(next(argv)) for _ in range(limits)]
        shapes.append(
            (
                action,
                costs[0] if len(costs) == 1 else tuple(costs),
                subjects,
                [(terms[abs(index) - 1], index < 0) for index in indexes],
            )
        )
    checks = []
    for index in argv:
        action, cost, subjects, limits_of = shapes[int(index) - 1]
        length = subjects + len(limits_of)
        checks.append((keys[:length], action, cost, limits_of))
        keys = keys[length:]
    assert keys == []
    return deadline_us, checks


plans = st.builds(
    make_plan,
    st.sampled_from(["alice", "bob", "a b{}"]),
    st.sampled_from(["login", "shared", "free", "other", "another"]),
    st.integers(0, 5),
    st.sampled_from([{}, IP]),
)


@given(batch=st.lists(plans, min_size=1, max_size=20), deadline_us=st.integers(0, 2**52))
def test_call_asks_for_every_check_in_order(batch: list[Plan], deadline_us: int) -> None:
    found_deadline_us, checks = interpret(pack_call(batch, deadline_us, {}))
    assert found_deadline_us == deadline_us
    assert checks == [
        (
            list(plan.keys),
            plan.check.action,
            plan.check.cost,
            [
                (
                    [
                        limit.terms.capacity_units,
                        limit.terms.refill,
                        limit.terms.period_ticks,
                        limit.terms.tick_us,
                        limit.terms.tag,
                        limit.terms.generation.since_us,
                    ],
                    limit.is_shadow,
                )
                for limit in plan.limits
            ],
        )
        for plan in batch
    ]


def test_what_checks_share_is_sent_once() -> None:
    from enforcer.decisions.planner import Planner
    from tests.unit.enforcer.builders import POLICIES_IN_FORCE, make_check

    planner = Planner(POLICIES_IN_FORCE)
    one = [planner.plan(make_check("alice", "other"))]
    many = [planner.plan(make_check(f"user-{number}", "other")) for number in range(100)]
    assert len(pack_call(many, 0, {})) < len(pack_call(one, 0, {})) + 100 * (len("".join(many[0].keys)) + 40)


def test_allowed_and_refused_results_are_read_with_their_levels() -> None:
    plan = make_plan(attributes=IP)
    assert read_result(plan, [1, 1000, 2, 2, 29 * TOKEN, 7], NOW_US, 3.5) == Reading(
        NOW_US, Status.LIMIT, 1000, 2, 2, (29 * TOKEN, 7), sent_s=3.5
    )
    assert read_result(make_plan(action="free"), [0, 1000, 0, 0], NOW_US, 0.0) == Reading(NOW_US, Status.ALLOW)


def test_warning_is_read_with_the_subject_that_it_is_about() -> None:
    reading = read_result(make_plan(attributes=IP), [0, 500, 0, 0, 1, 2, 99, b"rule", b"v1", 2], NOW_US, 0.0)
    assert reading is not None
    assert reading.warned == Warned(99, "rule", "v1", "ip=203.0.113.7")
    assert (reading.factor, reading.levels) == (500, (1, 2))


def test_ban_is_read_with_its_scope() -> None:
    reading = read_result(make_plan(), [4, 99, 2, b"rule", b"v1", 1, b"login,api/*"], NOW_US, 1.0)
    assert reading == Reading(NOW_US, Status.BAN, ban=Ban(99, 2, "rule", "v1", "user=alice", ("login", "api/*")), sent_s=1.0)


def test_check_that_failed_on_the_server_has_no_reading() -> None:
    assert read_result(make_plan(), [5, b"WRONGTYPE \xff"], NOW_US, 0.0) is None


def test_limits_that_cost_different_amounts_say_so_each() -> None:
    plan = make_plan(attributes=IP, cost=3)
    differing = msgspec.structs.replace(plan, costs=(3, -2))
    _, checks = interpret(pack_call([plan, differing, differing, plan], 0, {}))
    assert [check[2] for check in checks] == [3, (3, -2), (3, -2), 3]


def test_factor_of_an_action_goes_with_its_checks_alone() -> None:
    plans = [make_plan(action="login"), make_plan(action="other")]
    words = unpack(pack_call(plans, 0, {"login": Throttling(500, CLOSED, 0)}))
    assert (words[words.index("login") + 2], words[words.index("other") + 2]) == ("500", "1000")


def test_checks_that_an_open_action_refuses_are_told_apart_from_its_probes() -> None:
    planner = Planner(POLICIES_IN_FORCE)
    plans = [planner.plan(make_check(f"user{number}")) for number in range(100)]
    words = unpack(pack_call(plans, 0, {"login": Throttling(20, 500, 0)}))
    factors = [words[place + 2] for place, word in enumerate(words) if word == "login"]
    assert sorted(factors) == ["-20", "20"], "one shape each, however many checks"
