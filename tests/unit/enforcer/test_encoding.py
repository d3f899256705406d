from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enforcer.bucket import Status
from enforcer.decision import Ban, Decision, Reading, Warned, decide
from enforcer.encoding import encode_batch_response, encode_response, encode_rls_response, write_varint
from enforcer.plan import Plan, Planner
from enforcer.rls import plan_request, write_rls_response
from enforcer.service import write_response
from ratchet.envoy import rls_pb2
from ratchet.v1 import enforcer_pb2
from tests.unit.enforcer.builders import POLICIES_IN_FORCE, make_plan

NOW_US = 1_700_000_000_123_456
BAN = Ban(NOW_US // 1000 + 1000, 2, "brute_force", "v1", "user=alice", ("login",))
WARNED = Warned(NOW_US // 1000 + 1000, "brute_force", "v1", "user=alice")


@st.composite
def readings(draw: st.DrawFn, plan: Plan) -> Reading:
    status = draw(st.sampled_from([Status.ALLOW, Status.LIMIT, Status.THROTTLED, Status.BAN]))
    if status == Status.BAN:
        return Reading(NOW_US, status, ban=BAN, is_cached=draw(st.booleans()))
    levels = tuple(draw(st.integers(-1, limit.terms.capacity_units)) for limit in plan.limits)
    refusers = [i for i, limit in enumerate(plan.limits) if limit.is_shadow or status != Status.ALLOW]
    mask = st.sets(st.sampled_from(refusers)).map(lambda bits: sum(1 << i for i in bits)) if refusers else st.just(0)
    return Reading(
        NOW_US,
        status,
        draw(st.sampled_from([1000, 1000, 500, 1])),
        draw(mask),
        draw(mask),
        levels,
        None,
        draw(st.sampled_from([None, None, WARNED])),
        draw(st.booleans()),
        draw(st.booleans()),
    )


PLANS = [
    make_plan("alice", "login", attributes={"ip": "203.0.113.7"}),
    make_plan("alice", "login"),
    make_plan("alice", "shared"),
    make_plan("alice", "free"),
    make_plan("alice", "else"),
]


@given(st.data())
def test_a_check_is_answered_as_the_messages_would(data: st.DataObject) -> None:
    plan = data.draw(st.sampled_from(PLANS))
    decision = decide(plan, data.draw(readings(plan)))
    assert enforcer_pb2.CheckResponse.FromString(encode_response(plan, decision)) == write_response(plan, decision)


def ask(*descriptors: dict[str, str], domain: str = "login") -> Plan:
    request = rls_pb2.RateLimitRequest(domain=domain)
    for entries in descriptors:
        descriptor = request.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
    return plan_request(request, Planner(POLICIES_IN_FORCE))


ASKED = [
    ask({"user": "alice"}),
    ask({"user": "alice"}, {"remote_address": "203.0.113.7"}, {"path": "/"}),
    ask({"user": "alice", "remote_address": "203.0.113.7"}, domain="shared"),
    ask({"user": "alice"}, {"user": "bob"}),
    ask(),
    ask({"path": "/"}, domain="free"),
]


@given(st.data())
def test_envoy_is_answered_as_the_messages_would(data: st.DataObject) -> None:
    plan = data.draw(st.sampled_from(ASKED))
    decision = decide(plan, data.draw(readings(plan)))
    encoded = rls_pb2.RateLimitResponse.FromString(encode_rls_response(plan, decision))
    assert encoded == write_rls_response(plan, decision)


def test_a_batch_holds_its_answers_in_order() -> None:
    decisions: list[tuple[Plan, Decision]] = [
        (plan, decide(plan, Reading(NOW_US, Status.ALLOW, levels=tuple(x.terms.capacity_units for x in plan.limits))))
        for plan in PLANS
    ]
    encoded = encode_batch_response([encode_response(plan, decision) for plan, decision in decisions])
    expected = enforcer_pb2.CheckBatchResponse(results=[write_response(plan, decision) for plan, decision in decisions])
    assert enforcer_pb2.CheckBatchResponse.FromString(encoded) == expected


@given(st.integers(0, 2**64 - 1))
def test_varints_are_protobufs(value: int) -> None:
    written = write_varint(value)
    assert sum((byte & 0x7F) << 7 * i for i, byte in enumerate(written)) == value
    assert all(byte & 0x80 for byte in written[:-1])
    assert not written[-1] & 0x80
