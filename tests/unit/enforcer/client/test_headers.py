"""Status, headers and problem of a decision; the headers are read back by a parser of structured fields."""

from __future__ import annotations

from dataclasses import replace

import pytest
from http_sfv.list import List
from hypothesis import given
from hypothesis import strategies as st

from enforcer.client.decision import Decision, LimitStatus
from enforcer.client.headers import FAIL_OPEN_HEADER, LARGEST_INTEGER, OUTCOME_HEADER, list_older_headers
from ratchet.v1 import enforcer_pb2
from tests.unit.enforcer.client.answers import allowed, banned, denied, limit, read


def parse(value: str) -> dict[str, dict[str, object]]:
    """Items of a list of structured fields, by name, with their parameters."""
    fields = List()
    fields.parse(value.encode())
    return {item.value: dict(item.params) for item in fields}


def test_allowed_request_is_served_and_told_what_is_left() -> None:
    decision = read(allowed(limit(remaining=4, reset_after_ms=11_001)))
    assert (decision.http_status, decision.problem) == (200, None)
    assert decision.headers == {
        OUTCOME_HEADER: "allow",
        "RateLimit-Policy": '"per_user";q=5',
        "RateLimit": '"per_user";r=4;t=12',
    }


def test_denied_request_is_told_when_to_come_back() -> None:
    decision = read(denied(limit(refused=True, retry_after_ms=11_001, reset_after_ms=59_001), retry_after_ms=11_001))
    assert decision.http_status == 429
    assert decision.headers == {
        OUTCOME_HEADER: "deny",
        "RateLimit-Policy": '"per_user";q=5;w=60',
        "RateLimit": '"per_user";r=0;t=12',
        "Retry-After": "12",
        "Cache-Control": "no-store",
    }
    assert decision.problem == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": "Limit per_user is used up. This request could pass in 12 s, at 2023-11-14T22:13:32Z.",
        "retry_after_s": 12,
        "retry_at": "2023-11-14T22:13:32Z",
        "violated-policies": ["per_user"],
    }


def test_banned_request_is_told_until_when_and_by_which_rule() -> None:
    decision = read(banned())
    assert (decision.http_status, decision.headers["Retry-After"]) == (403, "60")
    assert decision.problem is not None
    assert decision.problem["ban_rule"] == "brute_force"
    assert decision.problem["ban_until"] == "2023-11-14T22:14:20Z"
    assert "rule brute_force" in str(decision.problem["detail"])


def test_ban_by_a_person_names_no_rule() -> None:
    problem = read(banned(rule="")).problem
    assert problem is not None
    assert "an operator" in str(problem["detail"])


def test_retry_after_is_at_least_one_second_and_never_rounded_down() -> None:
    waits = {wait: read(denied(retry_after_ms=wait)).headers["Retry-After"] for wait in (0, 1, 1000, 1001)}
    assert waits == {0: "1", 1: "1", 1000: "1", 1001: "2"}


def test_no_limit_resets_later_than_retry_after() -> None:
    full_later = limit("per_ip", remaining=1, reset_after_ms=60_000)
    decision = read(denied(full_later, limit(refused=True, retry_after_ms=500, reset_after_ms=1000), retry_after_ms=500))
    assert decision.headers["RateLimit"] == '"per_ip";r=1, "per_user";r=0;t=1'


def test_limits_that_share_a_name_are_told_apart_by_their_policies() -> None:
    decision = read(allowed(limit(policy="login"), limit(policy="all")))
    assert decision.headers["RateLimit-Policy"] == '"login:per_user";q=5, "all:per_user";q=5'


def test_shadow_limits_are_not_told() -> None:
    assert "RateLimit" not in read(allowed(limit(shadow=True))).headers
    assert list_older_headers(read(allowed(limit(shadow=True)))) == {}


def test_throttled_request_is_not_blamed_on_its_quota() -> None:
    response = denied(retry_after_ms=1000)
    response.reason = enforcer_pb2.REASON_THROTTLED
    problem = read(response).problem
    assert problem is not None
    assert str(problem["type"]).endswith("#temporary-reduced-capacity")


def test_window_of_a_limit_of_one_token_is_left_out_for_it_cannot_be_told() -> None:
    one = enforcer_pb2.LimitStatus(name="x", capacity=1, refused=True, retry_after_ms=100, reset_after_ms=100)
    assert read(denied(one, retry_after_ms=100)).headers["RateLimit-Policy"] == '"x";q=1'


AMOUNTS = st.integers(-1, 2**62)
NAMES = st.text('ab" \\,;=\n\x7fé', max_size=6)
LIMITS = st.builds(LimitStatus, NAMES, NAMES, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, st.booleans(), st.booleans())


@given(st.lists(LIMITS, min_size=1, max_size=4), st.sampled_from(["allow", "deny"]), AMOUNTS)
def test_any_limits_are_valid_structured_fields(limits: list[LimitStatus], outcome: str, wait_ms: int) -> None:
    decision = Decision(outcome, "limit", limits=tuple(limits), retry_after_ms=max(0, wait_ms))  # type: ignore[arg-type]
    told = decision.headers
    if all(limit.is_shadow for limit in limits):
        assert "RateLimit" not in told
        return
    for parameters in parse(told["RateLimit-Policy"]).values():
        assert parameters.keys() <= {"q", "w"}
        assert 0 <= parameters["q"] <= LARGEST_INTEGER  # type: ignore[operator]
    for parameters in parse(told["RateLimit"]).values():
        assert parameters.keys() <= {"r", "t"}
        assert 0 <= parameters["r"] <= LARGEST_INTEGER  # type: ignore[operator]


def test_names_are_escaped_as_strings_of_structured_fields() -> None:
    odd = enforcer_pb2.LimitStatus(name='a"b\\c\n', capacity=2**53, remaining=-1)
    headers = read(allowed(odd)).headers
    assert parse(headers["RateLimit-Policy"]) == {'a"b\\c?': {"q": LARGEST_INTEGER}}
    assert parse(headers["RateLimit"]) == {'a"b\\c?': {"r": 0}}


def test_warning_is_passed_on() -> None:
    response = allowed()
    response.warning.CopyFrom(enforcer_pb2.Warning(until_ms=1_999, rule="brute_force"))
    assert read(response).headers["X-Ratchet-Warning"] == '"brute_force";until=1'


def test_older_triple_is_about_the_limit_that_is_nearest_to_refusing() -> None:
    wide, narrow = limit("per_ip", remaining=4, reset_after_ms=9_000), limit(remaining=1, reset_after_ms=2_001)
    expected = {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "3"}
    assert list_older_headers(read(allowed(wide, narrow))) == expected
    refusing = limit("per_ip", refused=True, retry_after_ms=1_500, reset_after_ms=9_000)
    expected = {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2"}
    assert list_older_headers(read(denied(refusing, narrow, retry_after_ms=1_500))) == expected


@pytest.mark.parametrize(("outcome", "status"), [("allow", 200), ("deny", 503)])
def test_request_without_a_decision_says_why(outcome: str, status: int) -> None:
    decision = Decision(outcome, "no_decision", failure="deadline exceeded")  # type: ignore[arg-type]
    assert decision.http_status == status
    if outcome == "allow":
        assert (decision.headers, decision.problem) == ({FAIL_OPEN_HEADER: "deadline exceeded"}, None)
    else:
        assert decision.headers == {"Retry-After": "1", "Cache-Control": "no-store"}
        assert decision.problem == {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "detail": "There is no decision about this request (deadline exceeded).",
        }


def test_ban_without_its_details_is_refused_all_the_same() -> None:
    decision = replace(read(banned()), ban=None)
    assert decision.http_status == 403
    assert decision.problem is not None
