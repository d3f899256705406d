"""What Envoy's requests ask for, field by field, and that no content lets one pass that would be refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.calls.access import Caller
from enforcer.decisions.decision import Decision, Reading, decide
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.envoy.rls import write_rls_response
from enforcer.envoy.rls_request import MOST_COST, MOST_ENTRIES, parse_request, plan_payload, plan_request, sign_request
from enforcer.limits.bucket import LARGEST_EXACT, Status
from ratchet.envoy import descriptor_pb2, rls_pb2, unit_pb2
from tests.unit.enforcer.builders import POLICIES, POLICIES_IN_FORCE, make_policies

Entry = descriptor_pb2.RateLimitDescriptor.Entry
Override = descriptor_pb2.RateLimitDescriptor.RateLimitOverride
PAIRS = [("user", "alice")], [("remote_address", "203.0.113.7")]


def describe(
    pairs: Sequence[tuple[str, str]], hits: int | None = None, override: Override | None = None, *, is_negative: bool = False
) -> descriptor_pb2.RateLimitDescriptor:
    descriptor = descriptor_pb2.RateLimitDescriptor(
        entries=[Entry(key=key, value=value) for key, value in pairs], is_negative_hits=is_negative
    )
    if hits is not None:
        descriptor.hits_addend.value = hits
    if override is not None:
        descriptor.limit.CopyFrom(override)
    return descriptor


def plan(*descriptors: descriptor_pb2.RateLimitDescriptor, domain: str = "login", hits: int = 0) -> Plan:
    request = rls_pb2.RateLimitRequest(domain=domain, descriptors=descriptors, hits_addend=hits)
    return plan_request(request, Planner(POLICIES_IN_FORCE))


def test_hits_of_the_request_count_for_every_descriptor_and_0_means_1() -> None:
    assert plan(*map(describe, PAIRS)).cost_of_each == (1, 1)
    planned = plan(*map(describe, PAIRS), hits=3)
    assert (planned.check.cost, planned.costs, planned.cost_of_each) == (3, (), (3, 3))


def test_hits_of_a_descriptor_count_instead_of_the_requests() -> None:
    planned = plan(describe(PAIRS[0], 4), describe(PAIRS[1]), hits=2)
    assert [limit.name for limit in planned.limits] == ["per_user", "per_ip"]
    assert (planned.check.cost, planned.costs) == (4, (4, 2))


def test_0_hits_of_a_descriptor_look_and_take_nothing() -> None:
    assert plan(describe(PAIRS[0], 0)).check.cost == 0
    assert plan(describe(PAIRS[0], 0), describe(PAIRS[1])).costs == (0, 1)


def test_limit_that_two_descriptors_share_takes_what_the_one_asks_for_that_asks_for_most() -> None:
    planned = plan(describe(PAIRS[0], 2), describe(PAIRS[0], 5))
    assert (planned.check.cost, planned.costs) == (5, (5,))


def test_negative_hits_give_back_what_they_say_else_what_the_request_does() -> None:
    assert plan(describe(PAIRS[0], 3, is_negative=True)).check.cost == -3
    assert plan(describe(PAIRS[0], is_negative=True), hits=2).check.cost == -2
    planned = plan(describe(PAIRS[0], 3, is_negative=True), describe(PAIRS[1], 2))
    assert (planned.check.cost, planned.costs) == (2, (-3, 2))
    planned = plan(describe(PAIRS[0], 3, is_negative=True), describe(PAIRS[1], 9, is_negative=True))
    assert (planned.check.cost, planned.costs) == (-9, (-3, -9))


def test_hits_no_bucket_could_hold_are_counted_as_more_than_any_holds() -> None:
    for hits in (2**32, 2**53, 2**64 - 1):
        assert plan(describe(PAIRS[0], hits)).check.cost == min(hits, MOST_COST)
    assert MOST_COST > LARGEST_EXACT


def test_override_has_a_bucket_of_its_own_with_its_terms_in_the_key() -> None:
    ten, other = Override(requests_per_unit=10, unit=unit_pb2.MINUTE), Override(requests_per_unit=11, unit=unit_pb2.MINUTE)
    planned = plan(describe([("user", "alice"), ("path", "/a b")], override=ten))
    assert planned.bucket_keys == ("rate_limit:{user=alice}&path=/a%20b:login:override-10-1minute",)
    assert planned.subjects == ("user=alice",)
    (limit,) = planned.limits
    assert (limit.terms.capacity, limit.terms.period_ticks * limit.terms.tick_us // limit.terms.refill) == (10, 6_000_000)
    assert plan(describe([("user", "alice"), ("path", "/a b")], override=other)).bucket_keys != planned.bucket_keys
    assert plan(describe([("user", "alice"), ("path", "/a b")], override=ten)).limits[0] is limit


@pytest.mark.parametrize(
    ("unit", "multiplier", "period_s"),
    [("SECOND", 0, 1), ("SECOND", 90, 90), ("MINUTE", 1, 60), ("HOUR", 2, 7_200), ("DAY", 0, 86_400), ("MONTH", 0, 2_592_000),
     ("YEAR", 0, 31_536_000)],
)  # fmt: skip
def test_override_counts_in_its_unit_times_its_multiplier(unit: str, multiplier: int, period_s: int) -> None:
    override = Override(requests_per_unit=7, unit=unit_pb2.RateLimitUnit.Value(unit))
    if multiplier:
        override.unit_multiplier.value = multiplier
    planned = plan(describe(PAIRS[0], override=override))
    terms = planned.limits[0].terms
    assert terms.period_ticks * terms.tick_us * 7 == period_s * 1_000_000 * terms.refill
    (written,) = write_rls_response(planned, answer_all(planned)).statuses
    told = written.current_limit
    assert (told.requests_per_unit, rls_pb2.RateLimitResponse.RateLimit.Unit.Name(told.unit)) == (7, unit)
    assert (told.unit_multiplier.value or 1) == (multiplier or 1)


def test_override_of_no_unit_leaves_the_configured_limits() -> None:
    assert plan(describe(PAIRS[0], override=Override(requests_per_unit=10))).limits[0].name == "per_user"


def test_override_of_0_requests_refuses_everything() -> None:
    assert plan(describe(PAIRS[0], override=Override(unit=unit_pb2.HOUR))).limits[0].terms.capacity == 0


def test_override_in_one_descriptor_leaves_the_limits_of_the_others() -> None:
    planned = plan(describe(PAIRS[0], override=Override(requests_per_unit=1, unit=unit_pb2.DAY)), describe(PAIRS[1]))
    assert [limit.name for limit in planned.limits] == ["override-1-1day", "per_ip"]
    assert planned.template.positions == ((0,), (1,))


def test_request_of_too_many_entries_meets_a_limit_that_refuses_everything() -> None:
    many = [describe([("user", f"u{number}")]) for number in range(MOST_ENTRIES + 1)]
    planned = plan(*many)
    assert [(limit.name, limit.terms.capacity) for limit in planned.limits] == [("too_many_entries", 0)]
    assert planned.template.positions == ((0,),) * len(many)
    assert plan(describe([("k", "v")] * (MOST_ENTRIES + 1))).limits[0].name == "too_many_entries"
    assert plan(*[describe([])] * (MOST_ENTRIES + 1)).limits[0].name == "too_many_entries"
    assert plan(*many[:MOST_ENTRIES]).limits[0].name == "per_user"


def answer_all(planned: Plan) -> Decision:
    levels = tuple(limit.terms.capacity_units for limit in planned.limits)
    return decide(planned, Reading(1_700_000_000_000_000, Status.ALLOW, levels=levels))


def make_raw(key: bytes, value: bytes, domain: bytes = b"login") -> bytes:
    def pack(number: int, content: bytes) -> bytes:
        return bytes((number << 3 | 2, len(content))) + content

    return pack(1, domain) + pack(2, pack(1, pack(1, key) + pack(2, value))) + b"\x18\x03"


def test_bytes_that_are_no_text_are_written_out_and_everything_else_stands() -> None:
    request = parse_request(make_raw(b"us\xffer", b"al\xffice \xc3\xa9", b"log\xfein"))
    assert (request.domain, request.hits_addend) == ("log\\xfein", 3)
    assert [(entry.key, entry.value) for entry in request.descriptors[0].entries] == [("us\\xffer", "al\\xffice é")]
    assert plan_payload(make_raw(b"user", b"al\xffice"), Planner(POLICIES_IN_FORCE)).keys[1:] == (
        "rate_limit:{user=al%5Cxffice}:login:per_user",
    )


@given(
    key=st.sampled_from([b"user", b"user_id", b"remote_address", b"\xff", b""]),
    value=st.binary(max_size=40),
    domain=st.sampled_from([b"login", b"shared", b"\x80", b""]),
)
def test_any_bytes_in_texts_are_planned(key: bytes, value: bytes, domain: bytes) -> None:
    planner = Planner(POLICIES_IN_FORCE)
    for _ in range(2):
        planned = plan_payload(make_raw(key, value, domain), planner)
        assert planned.check.cost == 3
        if key == b"user" and domain == b"login":
            assert [limit.name for limit in planned.limits] == ["per_user"]


def test_every_field_of_a_descriptor_is_read_beside_bytes_that_are_no_text() -> None:
    request = rls_pb2.RateLimitRequest(
        domain="login",
        descriptors=[
            describe([("user", "aXice")], 7, Override(requests_per_unit=3, unit=unit_pb2.HOUR), is_negative=True),
            describe([("user", "bob")]),
        ],
    )
    payload = request.SerializeToString().replace(b"aXice", b"a\xffice")
    request.descriptors[0].entries[0].value = "a\\xffice"
    assert parse_request(payload) == request


hits = st.none() | st.integers(0, 2**64 - 1)
overrides = st.none() | st.builds(
    Override, requests_per_unit=st.integers(0, 2**32 - 1), unit=st.sampled_from(unit_pb2.RateLimitUnit.values())
)
pairs = st.lists(st.tuples(st.sampled_from(["user", "remote_address", "path", ""]), st.text(max_size=8)), max_size=3)


@given(st.lists(st.builds(describe, pairs, hits, overrides, is_negative=st.booleans()), max_size=5), st.integers(0, 2**32 - 1))
def test_any_request_is_planned_with_a_status_for_each_descriptor(
    descriptors: list[descriptor_pb2.RateLimitDescriptor], request_hits: int
) -> None:
    planned = plan(*descriptors, hits=request_hits)
    assert len(planned.template.positions) == len(descriptors)
    assert len(planned.cost_of_each) == len(planned.limits) == len(planned.bucket_keys)
    assert len(set(planned.keys)) == len(planned.keys)
    assert all(abs(cost) <= MOST_COST for cost in planned.cost_of_each)
    written = write_rls_response(planned, answer_all(planned))
    assert len(written.statuses) == len(descriptors)
    for place, descriptor in enumerate(descriptors):
        asked = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else request_hits or 1
        for position in planned.template.positions[place]:
            signed = -min(asked, MOST_COST) if descriptor.is_negative_hits else min(asked, MOST_COST)
            assert planned.cost_of_each[position] >= signed


def test_signed_request_names_its_caller_once_whatever_it_said() -> None:
    forged = [("user", "alice"), ("caller", "forged"), ("caller", "again")], [("caller", "forged")]
    request = rls_pb2.RateLimitRequest(descriptors=map(describe, forged))
    sign_request(request, Caller("envoy", ("check",)))
    named = [[(entry.key, entry.value) for entry in descriptor.entries] for descriptor in request.descriptors]
    assert named == [[("user", "alice"), ("caller", "envoy")], []]


MAPPED = POLICIES.replace(
    "foldable:",
    "attributes: [region]\nenvoy: { domains: { edge: login }, keys: { client: user, peer: ip, user_id: region } }\nfoldable:",
)


def test_document_says_what_domains_and_keys_mean() -> None:
    planner = Planner(make_policies(MAPPED))
    for _ in range(2):
        request = rls_pb2.RateLimitRequest(
            domain="edge", descriptors=[describe([("client", "ann"), ("peer", "::ffff:10.0.0.1"), ("user_id", "eu")])]
        )
        planned = plan_payload(request.SerializeToString(), planner)
        assert (planned.check.action, planned.check.user_id) == ("login", "ann")
        assert planned.check.attributes == {"ip": "::ffff:10.0.0.1", "region": "eu"}
        assert planned.subjects == ("user=ann", "ip=10.0.0.1")
        assert [limit.name for limit in planned.limits] == ["per_ip", "per_user"]
    assert planner.requests.plan(request.SerializeToString()) is not None
    untouched = rls_pb2.RateLimitRequest(domain="login", descriptors=[describe([("remote_address", "10.0.0.1")])])
    assert plan_request(untouched, planner).subjects == ("ip=10.0.0.1",)
