import re

import pytest

from examples.http_headers import FAIL_OPEN_HEADER, LARGEST_INTEGER, describe_decision, describe_fail_open
from ratchet.v1 import enforcer_pb2

NOW_MS = 1_700_000_000_000


def limit(name: str = "per_user", policy: str = "login", **fields: int | bool) -> enforcer_pb2.LimitStatus:
    return enforcer_pb2.LimitStatus(policy=policy, name=name, capacity=5, **fields)  # type: ignore[arg-type]


def allowed(*limits: enforcer_pb2.LimitStatus) -> enforcer_pb2.CheckResponse:
    return enforcer_pb2.CheckResponse(outcome=enforcer_pb2.OUTCOME_ALLOW, reason=enforcer_pb2.REASON_OK, limits=limits)


def denied(*limits: enforcer_pb2.LimitStatus, retry_after_ms: int) -> enforcer_pb2.CheckResponse:
    return enforcer_pb2.CheckResponse(
        outcome=enforcer_pb2.OUTCOME_DENY,
        reason=enforcer_pb2.REASON_LIMIT,
        policy="login",
        limits=limits,
        retry_after_ms=retry_after_ms,
    )


def banned(rule: str = "brute_force") -> enforcer_pb2.CheckResponse:
    ban = enforcer_pb2.Ban(until_ms=NOW_MS + 59_001, scope=["login"], level=1, rule=rule, verdict_id="v1", subject="user=u")
    return enforcer_pb2.CheckResponse(
        outcome=enforcer_pb2.OUTCOME_BAN, reason=enforcer_pb2.REASON_BANNED, ban=ban, retry_after_ms=59_001
    )


def test_allowed_request_is_served_and_told_what_is_left() -> None:
    answer = describe_decision(allowed(limit(remaining=4, reset_after_ms=11_001)), now_ms=NOW_MS)
    assert (answer.status, answer.problem) == (200, None)
    assert answer.headers["RateLimit-Policy"] == '"per_user";q=5'
    assert answer.headers["RateLimit"] == '"per_user";r=4;t=12'
    assert "Retry-After" not in answer.headers


def test_denied_request_is_told_when_to_come_back() -> None:
    answer = describe_decision(
        denied(limit(refused=True, retry_after_ms=11_001, reset_after_ms=59_001), retry_after_ms=11_001), now_ms=NOW_MS
    )
    assert answer.status == 429
    assert answer.headers["RateLimit-Policy"] == '"per_user";q=5;w=60'
    assert answer.headers["RateLimit"] == '"per_user";r=0;t=12'
    assert answer.headers["Retry-After"] == "12"
    assert answer.headers["x-ratchet-outcome"] == "deny"
    assert answer.problem is not None
    assert answer.problem["status"] == 429
    assert answer.problem["violated-policies"] == ["per_user"]
    assert answer.problem["retry_at"] == "2023-11-14T22:13:32Z"
    assert "per_user" in str(answer.problem["detail"])


def test_banned_request_is_told_until_when_and_by_which_rule() -> None:
    answer = describe_decision(banned(), now_ms=NOW_MS)
    assert answer.status == 403
    assert answer.headers["Retry-After"] == "60"
    assert answer.problem is not None
    assert answer.problem["ban_rule"] == "brute_force"
    assert answer.problem["ban_until"] == "2023-11-14T22:14:20Z"
    assert "rule brute_force" in str(answer.problem["detail"])


def test_ban_by_a_person_names_no_rule() -> None:
    problem = describe_decision(banned(rule=""), now_ms=NOW_MS).problem
    assert problem is not None
    assert "an operator" in str(problem["detail"])


def test_retry_after_is_at_least_one_second_and_never_rounded_down() -> None:
    waits = {
        wait: describe_decision(denied(retry_after_ms=wait), now_ms=0).headers["Retry-After"] for wait in (0, 1, 1000, 1001)
    }
    assert waits == {0: "1", 1: "1", 1000: "1", 1001: "2"}


def test_no_limit_resets_later_than_retry_after() -> None:
    full_later = limit("per_ip", remaining=1, reset_after_ms=60_000)
    answer = describe_decision(
        denied(full_later, limit(refused=True, retry_after_ms=500, reset_after_ms=1000), retry_after_ms=500), now_ms=0
    )
    assert answer.headers["RateLimit"] == '"per_ip";r=1, "per_user";r=0;t=1'


def test_limits_that_share_a_name_are_told_apart_by_their_policies() -> None:
    answer = describe_decision(allowed(limit(policy="login"), limit(policy="all")), now_ms=0)
    assert answer.headers["RateLimit-Policy"] == '"login:per_user";q=5, "all:per_user";q=5'


def test_shadow_limits_are_not_told() -> None:
    assert "RateLimit" not in describe_decision(allowed(limit(shadow=True)), now_ms=0).headers


def test_throttled_request_is_not_blamed_on_its_quota() -> None:
    response = denied(retry_after_ms=1000)
    response.reason = enforcer_pb2.REASON_THROTTLED
    problem = describe_decision(response, now_ms=0).problem
    assert problem is not None
    assert str(problem["type"]).endswith("#temporary-reduced-capacity")


def test_window_of_a_limit_of_one_token_is_left_out_for_it_cannot_be_told() -> None:
    one = enforcer_pb2.LimitStatus(name="x", capacity=1, refused=True, retry_after_ms=100, reset_after_ms=100)
    assert describe_decision(denied(one, retry_after_ms=100), now_ms=0).headers["RateLimit-Policy"] == '"x";q=1'


def test_numbers_and_names_are_valid_structured_fields() -> None:
    odd = enforcer_pb2.LimitStatus(name='a"b\\c\n', capacity=2**53, remaining=-1)
    headers = describe_decision(allowed(odd), now_ms=0).headers
    assert headers["RateLimit-Policy"] == f'"a\\"b\\\\c?";q={LARGEST_INTEGER}'
    assert re.search(r";r=0$", headers["RateLimit"])


def test_warning_is_passed_on() -> None:
    response = allowed()
    response.warning.CopyFrom(enforcer_pb2.Warning(until_ms=1_999, rule="brute_force"))
    assert describe_decision(response, now_ms=0).headers["x-ratchet-warning"] == '"brute_force";until=1'


def test_unknown_outcome_is_an_error_and_not_a_pass() -> None:
    with pytest.raises(ValueError, match="unknown outcome 0"):
        describe_decision(enforcer_pb2.CheckResponse(), now_ms=0)


def test_fail_open_says_why() -> None:
    assert describe_fail_open("deadline exceeded") == {FAIL_OPEN_HEADER: "deadline exceeded"}
