"""Envoy's requests of any content, and the answers to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.decision import Ban, Decision, Reading, decide, refuse_incomplete
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.encoding import encode_rls_response
from enforcer.envoy.rls import write_limit, write_rls_response
from enforcer.envoy.rls_request import plan_request
from enforcer.limits.bucket import UNLOWERED, Status, Terms
from enforcer.limits.envoy_files import compile_files
from enforcer.limits.policy import Limit
from ratchet.envoy import descriptor_pb2, rls_pb2
from tests.unit.enforcer.builders import EVERYTHING, POLICIES_IN_FORCE, make_policies

NOW_US = 1_700_000_000_000_000
TOKEN = 60_000_000
OK, OVER_LIMIT = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
RateLimit = rls_pb2.RateLimitResponse.RateLimit

Pairs = list[tuple[str, str]]


def make_request(*descriptors: Pairs, domain: str = "login", hits: int = 0) -> rls_pb2.RateLimitRequest:
    entry = descriptor_pb2.RateLimitDescriptor.Entry
    return rls_pb2.RateLimitRequest(
        domain=domain,
        descriptors=[
            descriptor_pb2.RateLimitDescriptor(entries=[entry(key=key, value=value) for key, value in pairs])
            for pairs in descriptors
        ],
        hits_addend=hits,
    )


def plan(*descriptors: Pairs, domain: str = "login", hits: int = 0) -> Plan:
    return plan_request(make_request(*descriptors, domain=domain, hits=hits), Planner(POLICIES_IN_FORCE))


def answer(planned: Plan, *, refused: int = 0) -> rls_pb2.RateLimitResponse:
    levels = tuple(0 if refused >> i & 1 else limit.terms.capacity_units for i, limit in enumerate(planned.limits))
    status = Status.LIMIT if refused else Status.ALLOW
    return write_rls_response(
        planned, decide(planned, Reading(NOW_US, status, refused=refused, refused_at_1=refused, levels=levels))
    )


def test_domain_is_the_action_and_known_keys_are_subjects() -> None:
    planned = plan([("user_id", "alice"), ("remote_address", "::ffff:203.0.113.7"), ("agent", "curl")])
    assert (planned.check.action, planned.check.user_id, planned.check.cost) == ("login", "alice", 1)
    assert planned.subjects == ("user=alice", "ip=203.0.113.7")
    assert planned.check.attributes == {"ip": "::ffff:203.0.113.7", "agent": "curl"}
    assert plan([("user", "alice"), ("ip", "203.0.113.7")]).keys == planned.keys


def test_subject_that_two_descriptors_name_is_taken_from_once() -> None:
    planned = plan([("user", "alice")], [("user_id", "alice"), ("remote_address", "203.0.113.7")])
    assert planned.subjects == ("user=alice", "ip=203.0.113.7")
    assert [limit.name for limit in planned.limits] == ["per_user", "per_ip"]
    assert planned.template.positions == ((0,), (1, 0))


def test_subjects_of_different_descriptors_have_buckets_of_their_own() -> None:
    planned = plan([("remote_address", "203.0.113.7")], [("remote_address", "203.0.113.8")])
    assert len(set(planned.bucket_keys)) == 2
    assert planned.template.positions == ((0,), (1,))


def test_statuses_stand_in_the_order_and_number_of_the_descriptors() -> None:
    planned = plan([("generic_key", "x")], [("user", "alice")], [], [("remote_address", "::1")])
    response = answer(planned)
    assert [status.code for status in response.statuses] == [OK] * 4
    assert [status.HasField("current_limit") for status in response.statuses] == [False, True, False, True]
    assert [status.current_limit.name for status in response.statuses] == ["", "login:per_user", "", "login:per_ip"]
    assert [status.limit_remaining for status in response.statuses] == [0, 5, 0, 30]


def test_descriptor_whose_limit_refused_is_over_limit_and_others_are_not() -> None:
    planned = plan([("user", "alice")], [("remote_address", "::1")])
    response = answer(planned, refused=0b01)
    assert response.overall_code == OVER_LIMIT
    assert [status.code for status in response.statuses] == [OVER_LIMIT, OK]
    assert {header.key: header.value for header in response.response_headers_to_add} == {
        "x-ratchet-outcome": "deny",
        "retry-after": "12",
    }
    assert response.statuses[0].duration_until_reset.seconds == 60


def test_tightest_limit_of_a_descriptor_is_told() -> None:
    planned = plan([("remote_address", "::1"), ("user", "alice")])
    assert answer(planned).statuses[0].current_limit.name == "login:per_user"
    assert answer(planned, refused=0b01).statuses[0].current_limit.name == "login:per_ip"


def test_ban_is_over_limit_for_every_descriptor_with_a_header() -> None:
    planned = plan([("user", "alice")], [("other", "x")])
    ban = Ban(NOW_US // 1000 + 61_500, 1, "brute_force", "v1", "user=alice", ("login",))
    response = write_rls_response(planned, decide(planned, Reading(NOW_US, Status.BAN, ban=ban)))
    assert response.overall_code == OVER_LIMIT
    assert [status.code for status in response.statuses] == [OVER_LIMIT, OVER_LIMIT]
    assert {header.key: header.value for header in response.response_headers_to_add} == {
        "x-ratchet-outcome": "ban",
        "retry-after": "62",
        "x-ratchet-rule": "brute_force",
    }


def test_shadow_limit_neither_refuses_nor_is_told() -> None:
    planned = plan([("user", "alice")], domain="shared")
    levels = (planned.limits[0].terms.capacity_units, 0)
    decision = decide(planned, Reading(NOW_US, Status.ALLOW, refused=0b10, levels=levels))
    (status,) = write_rls_response(planned, decision).statuses
    assert (status.code, status.current_limit.name) == (OK, "shared:everybody")


def test_degraded_answers_are_marked() -> None:
    planned = plan([("user", "alice")])
    response = write_rls_response(planned, Decision("allow", "ok", 1, is_degraded=True))
    assert response.dynamic_metadata["degraded"] is True


def test_oversized_values_become_their_hash() -> None:
    planned = plan([("user_id", "u" * 1025), ("k" * 2000, "v" * 100_000)], domain="d" * 129)
    assert planned.check.user_id.startswith("sha256:")
    assert planned.check.action.startswith("sha256:")
    assert all(len(key) <= 1024 and len(value) <= 1024 for key, value in planned.check.attributes.items())
    assert planned.keys != plan([("user_id", "u" * 1026)], domain="d" * 129).keys
    assert plan([("user_id", "u" * 1024)]).check.user_id == "u" * 1024


def test_empty_domain_and_no_descriptors_are_answered() -> None:
    assert plan(domain="").check.action == "unknown"
    assert answer(plan(domain="")).overall_code == OK
    assert list(answer(plan()).statuses) == []


def test_attributes_are_bounded_and_the_first_value_of_a_key_stands() -> None:
    planned = plan([(f"k{number}", "v") for number in range(40)], [("k0", "other")])
    assert len(planned.check.attributes) == 16
    assert planned.check.attributes["k0"] == "v"


def test_hits_above_the_capacity_are_planned_and_refused_later() -> None:
    planned = plan([("user", "alice")], hits=2**32 - 1)
    assert planned.check.cost == 2**32 - 1
    assert answer(planned, refused=0b1).overall_code == OVER_LIMIT
    assert plan([("user", "alice")]).check.cost == 1


texts = st.one_of(
    st.sampled_from(["user", "user_id", "remote_address", "ip", "agent", ""]),
    st.text(max_size=20),
    st.text("é", min_size=500, max_size=600),
)


@given(
    descriptors=st.lists(st.lists(st.tuples(texts, texts), max_size=4), max_size=6),
    domain=texts,
    hits=st.integers(0, 2**32 - 1),
)
def test_any_content_is_planned_within_bounds_and_answered(descriptors: list[Pairs], domain: str, hits: int) -> None:
    planned = plan(*descriptors, domain=domain, hits=hits)
    assert len(planned.template.positions) == len(descriptors)
    assert len(planned.keys) == len(planned.subjects) + len(planned.limits)
    assert len(planned.check.user_id.encode()) <= 1024
    for response in (answer(planned), answer(planned, refused=(1 << len(planned.limits)) - 1)):
        assert len(response.statuses) == len(descriptors)
        assert response.overall_code in {OK, OVER_LIMIT}
        assert all(status.code in {OK, OVER_LIMIT} for status in response.statuses)


@pytest.mark.parametrize(
    ("period_us", "unit", "multiplier"),
    [
        (1_000_000, RateLimit.SECOND, 0),
        (10_000_000, RateLimit.SECOND, 10),
        (60_000_000, RateLimit.MINUTE, 0),
        (90_000_000, RateLimit.SECOND, 90),
        (7_200_000_000, RateLimit.HOUR, 2),
        (86_400_000_000, RateLimit.DAY, 0),
        (100_000, RateLimit.SECOND, 0),
    ],
)
def test_terms_are_told_in_the_largest_unit_that_divides_the_period(period_us: int, unit: int, multiplier: int) -> None:
    written = write_limit(Limit("p", "l", (), Terms.of(5, 7, period_us), is_shadow=False))
    assert (written.name, written.requests_per_unit, written.unit) == ("p:l", 7, unit)
    assert written.unit_multiplier.value == multiplier
    assert UNLOWERED == 1000


def plan_everything(*descriptors: Pairs, domain: str = "login") -> Plan:
    return plan_request(make_request(*descriptors, domain=domain), Planner(make_policies(EVERYTHING)))


def test_further_attributes_are_in_keys_wherever_they_stand_among_the_descriptors() -> None:
    planned = plan_everything([("country", "DE"), ("remote_address", "::1")], [("user", "alice")], [("country", "FR")])
    assert planned.subjects == ("ip=::/64", "user=alice")
    assert (planned.template.kinds, planned.template.attributes) == (("ip", "user"), ("country", "country"))
    assert [limit.label for limit in planned.limits] == [
        "logins:per_country", "login:per_ip", "everywhere:per_user", "login:per_user"
    ]  # fmt: skip
    assert planned.bucket_keys[0] == "rate_limit:{country=DE}&ip=::/64:logins:per_country"
    assert planned.template.positions == ((0, 1), (2, 3), ())


def test_tier_is_an_entry_of_any_descriptor() -> None:
    planned = plan_everything([("user", "alice")], [("plan", "gold")], domain="search")
    assert planned.limits[1].tier == "gold"


@pytest.mark.parametrize("descriptors", [[], [[("user", "alice")]], [[("user", "alice")], [("country", "DE")]]])
def test_request_that_lacks_a_required_subject_is_incomplete(descriptors: list[Pairs]) -> None:
    planned = plan_everything(*descriptors)
    assert planned.template.is_incomplete
    assert [limit.label for limit in planned.limits] == ["login:per_ip"]
    assert planned.bucket_keys == ()
    response = write_rls_response(planned, decide(planned, refuse_incomplete(planned, NOW_US)))
    assert [response.overall_code, *[status.code for status in response.statuses]] == [OVER_LIMIT] * (1 + len(descriptors))


def test_request_that_names_a_required_subject_anywhere_is_complete() -> None:
    assert not plan_everything([("user", "alice")], [("remote_address", "::1")]).template.is_incomplete


FILE = """
domain: shop
descriptors:
  - key: free
    rate_limit: { unlimited: true }
  - key: user_id
    metadata: { team: { name: users, size: small }, tag: first }
    rate_limit: { unit: week, requests_per_unit: 9 }
  - key: path
    metadata: { team: { name: paths, colour: red }, tag: second }
    rate_limit: { unit: minute, requests_per_unit: 0 }
"""


def plan_in_file(*descriptors: Pairs) -> Plan:
    return plan_request(make_request(*descriptors, domain="shop"), Planner(compile_files([("shop.yaml", FILE)])))


def test_unlimited_descriptor_is_told_as_that_server_tells_it() -> None:
    planned = plan_in_file([("free", "x")], [("user_id", "bob")], [("none", "x")])
    statuses = answer(planned).statuses
    assert [status.code for status in statuses] == [OK] * 3
    assert [status.limit_remaining for status in statuses] == [2**32 - 1, 9, 0]
    assert [status.HasField("current_limit") for status in statuses] == [False, True, False]
    told = statuses[1].current_limit
    assert (told.name, told.requests_per_unit, told.unit) == ("shop:user_id", 9, RateLimit.WEEK)


def test_metadata_of_descriptors_that_passed_is_merged() -> None:
    planned = plan_in_file([("user_id", "bob")], [("path", "/")])
    assert answer(planned, refused=0b10).dynamic_metadata["metadata"] == {
        "team": {"name": "users", "size": "small"},
        "tag": "first",
    }
    merged = answer(planned).dynamic_metadata["metadata"]
    assert merged == {"team": {"name": "users", "size": "small", "colour": "red"}, "tag": "first"}


def test_answers_of_files_are_encoded_as_messages_are() -> None:
    for pairs in ([("free", "x")], [("user_id", "bob")], [("path", "/")], [("none", "x")]):
        planned = plan_in_file(pairs)
        levels = tuple(limit.terms.capacity_units for limit in planned.limits)
        decision = decide(planned, Reading(NOW_US, Status.ALLOW, levels=levels))
        assert rls_pb2.RateLimitResponse.FromString(encode_rls_response(planned, decision)) == write_rls_response(
            planned, decision
        )


def test_shadow_refusals_are_told_as_dynamic_metadata() -> None:
    planned = plan([("user", "alice")], domain="shared")
    levels = (planned.limits[0].terms.capacity_units, 0)
    decision = decide(planned, Reading(NOW_US, Status.ALLOW, refused=0b10, levels=levels))
    assert write_rls_response(planned, decision).dynamic_metadata["shadow"] is True
    assert rls_pb2.RateLimitResponse.FromString(encode_rls_response(planned, decision)).dynamic_metadata["shadow"] is True
