"""One enforcer as callers see it, on both transports."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from ratchet.envoy import descriptor_pb2, rls_pb2
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import EnforcerProcess, run_enforcer

LATENCY = enforcer_pb2.LatencyBucket(index=460, count=1)
OK, OVER_LIMIT = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT


@pytest.fixture(scope="module", params=["native", "grpcio"])
def enforcer(
    request: pytest.FixtureRequest, redis_url: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EnforcerProcess]:
    folder: Path = tmp_path_factory.mktemp("enforcer")
    with run_enforcer(redis_url, kafka_bootstrap, folder, "--transport", request.param, "--redis-timeout-ms", "1000") as one:
        one.wait_for_redis()
        one.wait_for_kafka()
        yield one


@pytest.fixture
def user() -> str:
    return f"user {uuid.uuid4()} {{🦊}}:\n"


def refuse(call: Callable[..., object], request: object) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=30)
    return refused.value.code(), refused.value.details()


def make_request(*descriptors: dict[str, str], domain: str = "login", hits: int = 0) -> rls_pb2.RateLimitRequest:
    entry = descriptor_pb2.RateLimitDescriptor.Entry
    return rls_pb2.RateLimitRequest(
        domain=domain,
        descriptors=[
            descriptor_pb2.RateLimitDescriptor(entries=[entry(key=key, value=value) for key, value in each.items()])
            for each in descriptors
        ],
        hits_addend=hits,
    )


def test_checks_are_allowed_until_the_bucket_is_empty(enforcer: EnforcerProcess, user: str) -> None:
    answers = [enforcer.check(user) for _ in range(6)]
    assert [answer.outcome for answer in answers] == [enforcer_pb2.OUTCOME_ALLOW] * 5 + [enforcer_pb2.OUTCOME_DENY]
    assert [answer.limits[0].remaining for answer in answers] == [4, 3, 2, 1, 0, 0]
    first, last = answers[0], answers[-1]
    assert (first.reason, first.policy, first.retry_after_ms, first.factor_per_mille) == (
        enforcer_pb2.REASON_OK,
        "login",
        0,
        1000,
    )
    assert len(first.policy_version) == 12
    assert (last.reason, last.limits[0].refused) == (enforcer_pb2.REASON_LIMIT, True)
    assert 0 < last.retry_after_ms <= 12_000
    assert not any(answer.degraded for answer in answers)


def test_cost_0_reads_and_changes_nothing(enforcer: EnforcerProcess, user: str) -> None:
    enforcer.check(user, cost=3)
    for _ in range(3):
        assert enforcer.check(user, cost=0).limits[0].remaining == 2


def test_limits_stand_in_the_policys_order_and_shadow_is_told(enforcer: EnforcerProcess, user: str) -> None:
    answers = [enforcer.check(user, "shared") for _ in range(3)]
    assert [(limit.name, limit.shadow) for limit in answers[0].limits] == [("everybody", False), ("trial", True)]
    assert [answer.shadow for answer in answers] == [False, False, True]
    assert all(answer.outcome == enforcer_pb2.OUTCOME_ALLOW for answer in answers)


def test_batch_of_1000_is_answered_in_order(enforcer: EnforcerProcess, user: str) -> None:
    requests = [enforcer_pb2.CheckRequest(user_id=f"{user}{number % 7}", action=f"a{number}") for number in range(997)]
    requests += [enforcer_pb2.CheckRequest(user_id=user, action="login", cost=2)] * 3
    response = enforcer.stub.CheckBatch(enforcer_pb2.CheckBatchRequest(checks=requests), timeout=30)
    assert len(response.results) == 1000
    assert {result.policy for result in response.results[:997]} == {"default"}
    assert [result.outcome for result in response.results[997:]] == [1, 1, 2]
    assert [result.limits[0].remaining for result in response.results[997:]] == [3, 1, 1]


def test_batch_of_1001_or_none_is_refused(enforcer: EnforcerProcess, user: str) -> None:
    check = enforcer_pb2.CheckRequest(user_id=user, action="x")
    for count in (0, 1001):
        request = enforcer_pb2.CheckBatchRequest(checks=[check] * count)
        expected = (grpc.StatusCode.INVALID_ARGUMENT, f"checks has {count} entries; 1 to 1000 are allowed")
        assert refuse(enforcer.stub.CheckBatch, request) == expected


def test_batch_with_a_bad_check_names_the_first_and_makes_none(enforcer: EnforcerProcess, user: str) -> None:
    good, bad = enforcer_pb2.CheckRequest(user_id=user, action="login"), enforcer_pb2.CheckRequest(action="login")
    request = enforcer_pb2.CheckBatchRequest(checks=[good, good, bad, bad])
    code, message = refuse(enforcer.stub.CheckBatch, request)
    assert (code, message) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "checks[2]: user_id is empty; 1 to 1024 bytes are allowed",
    )
    assert enforcer.check(user, cost=0).limits[0].remaining == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": ""}, "user_id is empty; 1 to 1024 bytes are allowed"),
        ({"user_id": "x" * 1025}, "user_id has 1025 bytes; 1 to 1024 bytes are allowed"),
        ({"action": ""}, "action '' is not 1 to 128 printable ASCII characters without spaces"),
        ({"cost": -1}, "cost is -1; whole tokens >= 0 are allowed"),
        ({"cost": 6}, "cost is 6; limit login:per_user holds at most 5 tokens"),
        ({"cost": 2**63 - 1}, "cost is 9223372036854775807; limit login:per_user holds at most 5 tokens"),
        (
            {"attributes": {"User-Agent": "x"}},
            "attributes: the key 'User-Agent' is not allowed; 1 to 64 of a-z 0-9 _ are, but not `user` and `action`",
        ),
    ],
)
def test_content_out_of_bounds_is_an_invalid_argument(
    enforcer: EnforcerProcess, changes: dict[str, object], message: str
) -> None:
    request = enforcer_pb2.CheckRequest(**{"user_id": "ann", "action": "login", **changes})  # type: ignore[arg-type]
    assert refuse(enforcer.stub.Check, request) == (grpc.StatusCode.INVALID_ARGUMENT, message)


def test_a_bad_report_is_an_invalid_argument_that_names_it(enforcer: EnforcerProcess) -> None:
    second_ms = time.time_ns() // 1_000_000_000 * 1000
    good = enforcer_pb2.OutcomeReport(action="x", second_ms=second_ms, count=1, latencies=[LATENCY])
    bad = enforcer_pb2.OutcomeReport(action="x", second_ms=second_ms, count=2, latencies=[LATENCY])
    request = enforcer_pb2.ReportOutcomesRequest(reports=[good, bad])
    expected = (grpc.StatusCode.INVALID_ARGUMENT, "reports[1]: latencies hold 1 requests, count says 2")
    assert refuse(enforcer.stub.ReportOutcomes, request) == expected
    request = enforcer_pb2.ReportOutcomesRequest()
    expected = (grpc.StatusCode.INVALID_ARGUMENT, "reports has 0 entries; 1 to 256 are allowed")
    assert refuse(enforcer.stub.ReportOutcomes, request) == expected


def test_envoy_gets_a_status_for_each_descriptor_in_order(enforcer: EnforcerProcess, user: str) -> None:
    request = make_request({"generic_key": "x"}, {"user_id": user}, {}, {"remote_address": user, "user": user})
    for left in (4, 3, 2, 1, 0):
        response = enforcer.envoy_stub.ShouldRateLimit(request, timeout=30)
        assert response.overall_code == OK
        assert [status.code for status in response.statuses] == [OK] * 4
        assert [status.HasField("current_limit") for status in response.statuses] == [False, True, False, True]
        assert response.statuses[1].limit_remaining == left
        assert response.statuses[1].current_limit.name == "login:per_user"
    response = enforcer.envoy_stub.ShouldRateLimit(request, timeout=30)
    assert response.overall_code == OVER_LIMIT
    assert [status.code for status in response.statuses] == [OK, OVER_LIMIT, OK, OVER_LIMIT]
    headers = {header.key: header.value for header in response.response_headers_to_add}
    assert headers["x-ratchet-outcome"] == "deny"
    assert 1 <= int(headers["retry-after"]) <= 12


def test_envoy_and_callers_share_the_buckets(enforcer: EnforcerProcess, user: str) -> None:
    enforcer.envoy_stub.ShouldRateLimit(make_request({"user_id": user}, hits=4), timeout=30)
    assert enforcer.check(user, cost=0).limits[0].remaining == 1


@pytest.mark.parametrize(
    ("call", "overall"),
    [
        (make_request(), OK),
        (make_request(domain=""), OK),
        (make_request({}), OK),
        (make_request({"nothing": "known"}), OK),
        (make_request({"remote_address": ""}), OK),
        (make_request({"user_id": "u" * 100_000}), OK),
        (make_request({"user_id": "é" * 600, "x" * 5000: "y" * 5000}, domain="d" * 5000), OK),
        (make_request({"user_id": "u"}, domain="with space"), OK),
        (make_request({"user_id": "huge"}, hits=2**32 - 1), OVER_LIMIT),
        (make_request({"user_id": "huge"}, hits=2**32 - 1, domain="other"), OVER_LIMIT),
        (make_request(*[{"remote_address": f"198.51.100.{number}"} for number in range(40)]), OK),
    ],
    ids=lambda value: "" if isinstance(value, rls_pb2.RateLimitRequest) else str(value),
)
def test_envoy_never_gets_an_error_on_content(enforcer: EnforcerProcess, call: rls_pb2.RateLimitRequest, overall: int) -> None:
    response = enforcer.envoy_stub.ShouldRateLimit(call, timeout=30)
    assert response.overall_code == overall
    assert len(response.statuses) == len(call.descriptors)
    assert not response.HasField("dynamic_metadata"), "answered without Redis"


def test_message_that_is_none_harms_nobody_else(enforcer: EnforcerProcess, user: str) -> None:
    raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = enforcer.channel.unary_unary("/ratchet.v1.Enforcer/Check")
    with pytest.raises(grpc.RpcError):
        raw(b"\xff\xff\xff", timeout=30)
    assert enforcer.check(user).outcome == enforcer_pb2.OUTCOME_ALLOW


def test_unknown_method_is_unimplemented(enforcer: EnforcerProcess) -> None:
    raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = enforcer.channel.unary_unary("/ratchet.v1.Enforcer/Nothing")
    assert refuse(raw, b"")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_health_says_serving_for_every_service(enforcer: EnforcerProcess) -> None:
    for service in ("", "ratchet.v1.Enforcer", "envoy.service.ratelimit.v3.RateLimitService"):
        assert enforcer.ask_health(service) == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(enforcer: EnforcerProcess) -> None:
    services = set(ProtoReflectionDescriptorDatabase(enforcer.channel).get_services())
    assert services >= {
        "ratchet.v1.Enforcer",
        "envoy.service.ratelimit.v3.RateLimitService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_pages_tell_liveness_readiness_and_counts(enforcer: EnforcerProcess, user: str) -> None:
    before = enforcer.read_metric("ratchet_redis_checks_total")
    enforcer.check(user)
    assert enforcer.read_metric("ratchet_redis_checks_total") == before + 1
    assert enforcer.get("/healthz") == (200, '{"status": "ok"}')
    status, body = enforcer.get("/readyz")
    assert status == 200
    assert '"redis": true' in body
    assert '"kafka": true' in body
    assert enforcer.get("/metrics")[1].endswith("# EOF\n")


def test_series_do_not_grow_with_traffic(enforcer: EnforcerProcess, user: str) -> None:
    def count_series() -> int:
        return sum(1 for line in enforcer.get("/metrics")[1].splitlines() if not line.startswith("#"))

    enforcer.check(user)
    before = count_series()
    for number in range(200):
        enforcer.check(f"{user}{number}", f"action-{number}", attributes={"ip": f"198.51.100.{number}"})
    assert count_series() == before


def test_ban_in_redis_is_answered_with_its_end(enforcer: EnforcerProcess, redis_url: str) -> None:
    from redis import Redis

    from lua.keys import name_abuse
    from topics.events import AbuseState, Ban

    name = f"banned-{uuid.uuid4()}"
    with Redis.from_url(redis_url) as client:
        until_ms = int(client.time()[0]) * 1000 + 60_000
        ban = Ban(until_ms=until_ms, level=2, rule="brute_force", verdict_id="v1", scope=("log*",))
        client.set(name_abuse(f"user={name}"), AbuseState(rev=1, bans=(ban,)).model_dump_json())
    for _ in range(2):  # from Redis, then from memory
        answer = enforcer.check(name)
        assert (answer.outcome, answer.reason) == (enforcer_pb2.OUTCOME_BAN, enforcer_pb2.REASON_BANNED)
        assert (answer.ban.until_ms, answer.ban.level, list(answer.ban.scope)) == (until_ms, 2, ["log*"])
        assert (answer.ban.rule, answer.ban.verdict_id, answer.ban.subject) == ("brute_force", "v1", f"user={name}")
        assert 0 < answer.retry_after_ms <= 60_000
    assert enforcer.check(name, "other").outcome == enforcer_pb2.OUTCOME_ALLOW
    response = enforcer.envoy_stub.ShouldRateLimit(make_request({"user_id": name}, {"other": "x"}), timeout=30)
    assert [status.code for status in response.statuses] == [OVER_LIMIT, OVER_LIMIT]
    headers = {header.key: header.value for header in response.response_headers_to_add}
    assert (headers["x-ratchet-outcome"], headers["x-ratchet-rule"]) == ("ban", "brute_force")
