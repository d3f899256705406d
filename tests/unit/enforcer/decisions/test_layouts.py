"""A request that is planned from its bytes is planned as its message would be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions import layouts
from enforcer.decisions.layouts import Layouts, walk_fields
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.envoy.rls_request import parse_request, plan_payload, plan_request
from enforcer.limits.bucket import Terms
from enforcer.limits.check import InvalidCheck
from enforcer.limits.policy import Override, Overrides
from enforcer.service import plan_batch, plan_check, read_batch, read_check
from ratchet.envoy import rls_pb2
from ratchet.v1 import enforcer_pb2
from tests.unit.enforcer.builders import EVERYTHING, POLICIES_IN_FORCE, make_policies

USERS = st.sampled_from(["alice", "carol", "dave1", "partner", "bobby", "a b{}", "\u00e4\u00f6", "\U0001f98a", "x" * 300, ""])
VALUES = st.sampled_from(["gold", "PRO", "DE", "2001:db8::7", "203.0.113.7", "203.0.113.8", "::ffff:1.2.3", "curl", ""])
KEYS = st.sampled_from(["plan", "country", "x-account", "geo", "user", "user_id", "remote_address", "ip", "path", "", "\u00fc"])

FEW = Override(Terms.of(2, 2, 1_000_000))
RUN_TIME: list[Overrides] = [
    {},
    {"user=alice": {("search", "per_user"): FEW, ("default", "per_user"): FEW}, "ip=203.0.113.7": {("login", "per_ip"): FEW}},
    {"user=partner": {("everywhere", "per_user"): FEW}, "user=carol": {("nothing", "such"): FEW}},
]


def planners() -> st.SearchStrategy[Planner]:
    """Under a plain document, and under one with all that a document can say."""
    return st.sampled_from([POLICIES_IN_FORCE, make_policies(EVERYTHING)]).map(Planner)


@st.composite
def envoy_requests(draw: st.DrawFn) -> bytes:
    request = rls_pb2.RateLimitRequest(
        domain=draw(st.sampled_from(["login", "login", "edge", "search", "search/x", "shared", "", "a b", "x" * 130])),
        hits_addend=draw(st.sampled_from([0, 0, 0, 3])),
    )
    for entries in draw(st.lists(st.lists(st.tuples(KEYS, USERS | VALUES), max_size=3), max_size=3)):
        descriptor = request.descriptors.add()
        for key, value in entries:
            descriptor.entries.add(key=key, value=value)
    return request.SerializeToString()


@st.composite
def checks(draw: st.DrawFn) -> bytes:
    check = enforcer_pb2.CheckRequest(
        user_id=draw(USERS),
        action=draw(st.sampled_from(["login", "login", "search", "shared", "", "other"])),
        attributes=draw(st.dictionaries(st.sampled_from(["ip", "agent", "Bad", "country", "plan"]), VALUES, max_size=3)),
        suppressed=draw(st.sampled_from([0, 0, 2])),
        suppressed_limits=draw(st.sampled_from([(), (), ("login:per_user",)])),
    )
    cost = draw(st.sampled_from([None, None, 0, 3, 99]))
    if cost is not None:
        check.cost = cost
    return check.SerializeToString()


def tell(read: Callable[[], Plan | list[Plan]]) -> object:
    """What is planned, or how it is refused."""
    try:
        plans = read()
    except InvalidCheck as error:
        return str(error)
    except DecodeError:
        return DecodeError
    return [(plan.check, plan.keys, plan.subjects, plan.template) for plan in (plans if isinstance(plans, list) else [plans])]


@given(planners(), st.lists(envoy_requests(), max_size=12), st.sampled_from(RUN_TIME))
def test_envoys_requests_are_planned_from_bytes_as_from_messages(
    planner: Planner, payloads: list[bytes], run_time: Overrides
) -> None:
    for number, payload in enumerate([*payloads, *payloads]):
        if number == len(payloads):
            planner.override(run_time)
        expected = tell(partial(lambda it: plan_request(parse_request(it), planner), payload))
        assert tell(partial(plan_payload, payload, planner)) == expected


@given(planners(), st.lists(checks(), max_size=12), st.sampled_from(RUN_TIME))
def test_checks_are_planned_from_bytes_as_from_messages(planner: Planner, payloads: list[bytes], run_time: Overrides) -> None:
    for number, payload in enumerate([*payloads, *payloads]):
        if number == len(payloads):
            planner.override(run_time)
        expected = tell(partial(lambda it: planner.plan(read_check(enforcer_pb2.CheckRequest.FromString(it))), payload))
        assert tell(partial(plan_check, payload, planner)) == expected


@given(st.data())
def test_damaged_requests_are_planned_or_refused_as_their_messages_are(data: st.DataObject) -> None:
    planner = Planner(POLICIES_IN_FORCE)
    known = data.draw(envoy_requests())
    plan_payload(known, planner)
    payload = bytearray(known)
    for _ in range(data.draw(st.integers(0, 3))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(payload)
    expected = tell(lambda: plan_request(parse_request(damaged), planner))
    assert tell(lambda: plan_payload(damaged, planner)) == expected


@given(st.binary(max_size=80))
def test_any_bytes_are_a_batch_or_refused_as_their_message_is(payload: bytes) -> None:
    planner = Planner(POLICIES_IN_FORCE)
    expected = tell(lambda: read_batch(enforcer_pb2.CheckBatchRequest.FromString(payload), planner))
    assert tell(lambda: plan_batch(payload, planner)) == expected


@given(st.lists(checks(), max_size=5))
def test_batch_names_the_first_check_that_is_out_of_bounds(payloads: list[bytes]) -> None:
    planner = Planner(POLICIES_IN_FORCE)
    batch = enforcer_pb2.CheckBatchRequest(checks=[enforcer_pb2.CheckRequest.FromString(payload) for payload in payloads])
    assert tell(lambda: plan_batch(batch.SerializeToString(), planner)) == tell(lambda: read_batch(batch, planner))


def usual_request(user: str) -> bytes:
    request = rls_pb2.RateLimitRequest(domain="login")
    request.descriptors.add().entries.add(key="user_id", value=user)
    request.descriptors.add().entries.add(key="remote_address", value="203.0.113.7")
    return request.SerializeToString()


def test_second_request_of_a_form_is_not_parsed() -> None:
    planner = Planner(POLICIES_IN_FORCE)
    assert planner.requests.plan(usual_request("alice")) is None
    plan_payload(usual_request("alice"), planner)
    plan = planner.requests.plan(usual_request("bobby"))
    assert plan is not None
    assert plan.subjects == ("user=bobby", "ip=203.0.113.7")


def test_invalid_text_in_a_known_form_is_left_to_the_parser() -> None:
    planner = Planner(POLICIES_IN_FORCE)
    plan_payload(usual_request("alice"), planner)
    plan = plan_payload(usual_request("alice").replace(b"alice", b"al\xffce"), planner)
    assert plan.check.user_id == "al\\xffce"
    assert plan.subjects == ("user=al%5Cxffce", "ip=203.0.113.7")


def test_layouts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "MOST_LAYOUTS", 50)
    planner = Planner(POLICIES_IN_FORCE)
    for number in range(300):
        request = rls_pb2.RateLimitRequest(domain=f"domain-{number:03}")
        request.descriptors.add().entries.add(key="user_id", value="alice")
        plan_payload(request.SerializeToString(), planner)
        assert sum(map(len, planner.requests._layouts.values())) <= 50
        assert max(map(len, planner.requests._layouts.values())) <= layouts.MOST_ALIKE


def test_walk_ends_with_no_field_where_the_bytes_are_no_message() -> None:
    assert list(walk_fields(b"\x0a\x02ab\x10\x05", 0, 6)) == [(1, 2, 4)]
    for odd in (b"\x0a\x05ab", b"\x0a", b"\xff" * 12, b"\x0b\x0c", b"\x0d\x01"):
        assert list(walk_fields(odd, 0, len(odd)))[-1] == (0, len(odd), len(odd))


def test_empty_request_has_no_layout() -> None:
    assert Layouts().plan(b"") is None
    assert Layouts().plan(b"\x0a") is None


def test_request_whose_limits_vary_is_parsed_each_time_and_one_with_further_attributes_is_not() -> None:
    planner = Planner(make_policies(EVERYTHING))

    def is_known_again(domain: str, **entries: str) -> bool:
        request = rls_pb2.RateLimitRequest(domain=domain)
        descriptor = request.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
        plan_payload(request.SerializeToString(), planner)
        return planner.requests.plan(request.SerializeToString()) is not None

    assert not is_known_again("search", user="alice")
    assert not is_known_again("search", user="alice", plan="gold")
    assert is_known_again("other", user="alice", plan="gold")
    assert is_known_again("login", user="alice", ip="::1", country="DE")
    assert is_known_again("edge", **{"x-account": "alice", "ip": "::1", "geo": "DE"})
    assert is_known_again("login", user="alice")
