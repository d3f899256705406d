"""Answers written by hand are the messages of the services, byte for meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.decision import Ban, Reading, Warned, decide, refuse_incomplete
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.encoding import encode_batch_response, encode_response, encode_rls_response, write_varint
from enforcer.envoy.rls import write_rls_response
from enforcer.envoy.rls_request import plan_request
from enforcer.limits.bucket import UNLOWERED, Status
from enforcer.limits.policy import Policies
from enforcer.service import write_response
from ratchet.envoy import descriptor_pb2, rls_pb2
from ratchet.v1 import enforcer_pb2
from tests.unit.enforcer.builders import EVERYTHING, POLICIES_IN_FORCE, make_plan, make_policies

NOW_US = 1_700_000_000_123_456
BAN = Ban(NOW_US // 1000 + 5, 3, "brute_force", "v1", "user=alice", ("login", "a*"))
WARNED = Warned(NOW_US // 1000 + 5, "brute_force", "v2", "user=alice")

plans = st.builds(
    make_plan,
    st.just("alice"),
    st.sampled_from(["login", "shared", "free", "other"]),
    st.integers(0, 2),
    st.sampled_from([{}, {"ip": "203.0.113.7"}]),
)
entries = st.sampled_from(
    [("user", "a"), ("user_id", "b"), ("remote_address", "::1"), ("remote_address", "::2:0:0:0:1"), ("x", "y")]
)


def make_envoy_plan(descriptors: list[list[tuple[str, str]]], domain: str, policies: Policies = POLICIES_IN_FORCE) -> Plan:
    entry = descriptor_pb2.RateLimitDescriptor.Entry
    built = [
        descriptor_pb2.RateLimitDescriptor(entries=[entry(key=key, value=value) for key, value in pairs])
        for pairs in descriptors
    ]
    return plan_request(rls_pb2.RateLimitRequest(domain=domain, descriptors=built), Planner(policies))


envoy_plans = st.builds(
    make_envoy_plan, st.lists(st.lists(entries, max_size=3), max_size=4), st.sampled_from(["login", "shared", "free", "other"])
)


@st.composite
def readings(draw: st.DrawFn, plan: Plan) -> Reading:
    status = draw(st.sampled_from([Status.ALLOW, Status.ALLOW, Status.LIMIT, Status.THROTTLED, Status.BAN]))
    count = len(plan.limits)
    if status == Status.BAN:
        return Reading(NOW_US, status, ban=BAN, is_degraded=draw(st.booleans()), is_cached=draw(st.booleans()))
    mask = draw(st.integers(0, (1 << count) - 1))
    if status == Status.ALLOW:
        mask &= sum(1 << i for i, limit in enumerate(plan.limits) if limit.is_shadow)
    is_cached = draw(st.booleans()) and status == Status.LIMIT
    levels = tuple(
        draw(
            st.integers(-1 if is_cached else 0, limit.terms.capacity_units)
            | st.just(limit.terms.capacity_units - limit.terms.period_ticks)
        )
        if not mask >> i & 1
        else draw(st.integers(0, max(0, plan.check.cost * limit.terms.period_ticks - 1)))
        for i, limit in enumerate(plan.limits)
    )
    return Reading(
        NOW_US,
        status,
        factor=draw(st.sampled_from([UNLOWERED, UNLOWERED, 500, 1])),
        refused=mask,
        refused_at_1=mask,
        levels=levels,
        warned=draw(st.sampled_from([None, None, WARNED])),
        is_degraded=draw(st.booleans()),
        is_cached=is_cached,
    )


@given(data=st.data(), plan=plans)
def test_response_is_what_the_service_writes(data: st.DataObject, plan: Plan) -> None:
    decision = decide(plan, data.draw(readings(plan)))
    assert enforcer_pb2.CheckResponse.FromString(encode_response(plan, decision)) == write_response(plan, decision)


@given(data=st.data(), plan=envoy_plans)
def test_envoys_response_is_what_the_service_writes(data: st.DataObject, plan: Plan) -> None:
    decision = decide(plan, data.draw(readings(plan)))
    assert rls_pb2.RateLimitResponse.FromString(encode_rls_response(plan, decision)) == write_rls_response(plan, decision)


@pytest.mark.parametrize("descriptors", [[], [[("user", "a")]], [[("user", "a")], [("country", "DE")], []]])
def test_envoys_answer_to_a_request_that_lacks_a_required_subject_is_over_limit_throughout(
    descriptors: list[list[tuple[str, str]]],
) -> None:
    plan = make_envoy_plan(descriptors, "login", make_policies(EVERYTHING))
    decision = decide(plan, refuse_incomplete(plan, NOW_US))
    response = rls_pb2.RateLimitResponse.FromString(encode_rls_response(plan, decision))
    assert response == write_rls_response(plan, decision)
    assert response.overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT
    assert [status.code for status in response.statuses] == [rls_pb2.RateLimitResponse.OVER_LIMIT] * len(descriptors)


def test_batch_holds_its_responses_in_order() -> None:
    results = [enforcer_pb2.CheckResponse(policy=f"p{number}" * (number * 40)) for number in range(20)]
    encoded = encode_batch_response([result.SerializeToString() for result in results])
    assert list(enforcer_pb2.CheckBatchResponse.FromString(encoded).results) == results


@given(value=st.integers(0, 2**63 - 1))
def test_varint_is_that_of_protobuf(value: int) -> None:
    assert enforcer_pb2.CheckResponse.FromString(b"\x30" + write_varint(value)).retry_after_ms == value
