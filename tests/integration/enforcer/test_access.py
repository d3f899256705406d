"""With an access document only known callers call, within their roles, on either transport; balancers still see the health."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2

from enforcer.calls.access import NEEDED
from ratchet.envoy import descriptor_pb2, rls_pb2
from ratchet.v1 import admin_pb2, admin_pb2_grpc, enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, poll, run_enforcer

CHECK = enforcer_pb2.CheckRequest(user_id="alice", action="other")
BATCH = enforcer_pb2.CheckBatchRequest(checks=[CHECK])
REPORT = enforcer_pb2.ReportOutcomesRequest()
ENVOYS = rls_pb2.RateLimitRequest(domain="other")


def write_access(file: Path, *callers: str) -> None:
    lines = [f"  - {{ {caller} }}\n" for caller in callers]
    file.write_text("version: 1\ncallers:\n" + "".join(lines))


def describe(name: str, token: str, roles: str, actions: str = "['*']") -> str:
    return f"name: {name}, tokens: ['{hashlib.sha256(token.encode()).hexdigest()}'], roles: [{roles}], actions: {actions}"


BACKEND = describe("backend", "secret", "check, report")
GIVER = describe("giver", "back", "check, refund")
REPORTER = describe("reporter", "reports", "report", "[other]")
CONFINED = describe("confined", "narrow", "check", "[login, 'api/*']")


class Guarded(NamedTuple):
    enforcer: EnforcerProcess
    file: Path

    def calls(self) -> dict[str, tuple[Callable[..., object], object]]:
        return {
            "Check": (self.enforcer.stub.Check, CHECK),
            "CheckBatch": (self.enforcer.stub.CheckBatch, BATCH),
            "ReportOutcomes": (self.enforcer.stub.ReportOutcomes, REPORT),
            "ShouldRateLimit": (self.enforcer.envoy_stub.ShouldRateLimit, ENVOYS),
        }


def bear(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def refuse(call: Callable[..., object], request: object, metadata: tuple[tuple[str, str], ...]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=30, metadata=metadata)
    return refused.value.code(), refused.value.details() or ""


@pytest.fixture(scope="module", params=["native", "grpcio"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("access")
    file = folder / "access.yaml"
    write_access(file, BACKEND, GIVER, REPORTER, CONFINED)
    options = ("--transport", request.param, "--access", str(file))
    with run_enforcer(f"redis://{NOWHERE}/0", NOWHERE, folder, *options) as enforcer:
        yield Guarded(enforcer, file)


@pytest.mark.parametrize("metadata", [(), bear("wrong"), (("authorization", "secret"),), (("authorization", ""),)])
def test_calls_need_a_known_token_and_health_does_not(guarded: Guarded, metadata: tuple[tuple[str, str], ...]) -> None:
    offered = guarded.enforcer.read_metric("ratchet_events_offered_total")
    for call, request in guarded.calls().values():
        assert refuse(call, request, metadata) == (grpc.StatusCode.UNAUTHENTICATED, NEEDED)
    assert guarded.enforcer.read_metric("ratchet_events_offered_total") == offered
    assert guarded.enforcer.ask_health() == health_pb2.HealthCheckResponse.SERVING


def test_known_caller_does_what_its_roles_say(guarded: Guarded) -> None:
    enforcer = guarded.enforcer
    assert enforcer.stub.Check(CHECK, timeout=30, metadata=bear("secret")).outcome == enforcer_pb2.OUTCOME_ALLOW
    assert len(enforcer.stub.CheckBatch(BATCH, timeout=30, metadata=bear("secret")).results) == 1
    assert enforcer.envoy_stub.ShouldRateLimit(ENVOYS, timeout=30, metadata=bear("secret")).overall_code == 1
    for token in ("secret", "reports"):
        code, message = refuse(enforcer.stub.ReportOutcomes, REPORT, bear(token))
        assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "reports has 0 entries; 1 to 256 are allowed")


def test_role_that_a_caller_lacks_is_named(guarded: Guarded) -> None:
    calls = guarded.calls()
    for name in ("Check", "CheckBatch", "ShouldRateLimit"):
        code, message = refuse(*calls[name], bear("reports"))
        assert (code, message) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "caller reporter lacks the role check; it has: report",
        )
    code, message = refuse(*calls["ReportOutcomes"], bear("narrow"))
    assert (code, message) == (grpc.StatusCode.PERMISSION_DENIED, "caller confined lacks the role report; it has: check")


def test_methods_of_administration_need_their_role(guarded: Guarded) -> None:
    explain = admin_pb2_grpc.EnforcerAdminStub(guarded.enforcer.channel).Explain
    code, _ = refuse(explain, admin_pb2.ExplainRequest(), bear("secret"))
    assert code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}


def test_action_that_is_anothers_is_refused_whole_and_takes_nothing(guarded: Guarded) -> None:
    enforcer, denied = guarded.enforcer, grpc.StatusCode.PERMISSION_DENIED
    offered = enforcer.read_metric("ratchet_events_offered_total")
    message = "caller confined may not use action other; it may: login, api/*"
    own = enforcer_pb2.CheckRequest(user_id="alice", action="login")
    assert refuse(enforcer.stub.Check, CHECK, bear("narrow")) == (denied, message)
    assert refuse(enforcer.envoy_stub.ShouldRateLimit, ENVOYS, bear("narrow")) == (denied, message)
    mixed = enforcer_pb2.CheckBatchRequest(checks=[own, CHECK])
    assert refuse(enforcer.stub.CheckBatch, mixed, bear("narrow")) == (denied, message)
    report = enforcer_pb2.ReportOutcomesRequest(reports=[enforcer_pb2.OutcomeReport(action="login")])
    assert refuse(enforcer.stub.ReportOutcomes, report, bear("reports"))[1] == (
        "caller reporter may not use action login; it may: other"
    )
    assert enforcer.read_metric("ratchet_events_offered_total") == offered
    assert enforcer.stub.Check(own, timeout=30, metadata=bear("narrow")).outcome == enforcer_pb2.OUTCOME_ALLOW


def test_giving_tokens_back_needs_a_role_of_its_own(guarded: Guarded) -> None:
    entry = descriptor_pb2.RateLimitDescriptor.Entry(key="user", value="alice")
    refund = descriptor_pb2.RateLimitDescriptor(entries=[entry], is_negative_hits=True)
    request = rls_pb2.RateLimitRequest(domain="other", descriptors=[refund])
    assert refuse(guarded.enforcer.envoy_stub.ShouldRateLimit, request, bear("secret")) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "caller backend lacks the role refund; it has: check, report",
    )
    assert guarded.enforcer.envoy_stub.ShouldRateLimit(request, timeout=30, metadata=bear("back")).overall_code == 1


def test_refused_calls_are_counted(guarded: Guarded) -> None:
    def read() -> list[float]:
        codes = ("UNAUTHENTICATED", "PERMISSION_DENIED")
        return [guarded.enforcer.read_metric(f'ratchet_refused_calls_total{{code="{code}"}}') for code in codes]

    before = read()
    refuse(*guarded.calls()["Check"], ())
    refuse(*guarded.calls()["ReportOutcomes"], ())
    refuse(*guarded.calls()["Check"], bear("reports"))
    refuse(*guarded.calls()["ReportOutcomes"], bear("narrow"))
    assert read() == [before[0] + 2, before[1] + 2]


def test_document_is_read_again_when_it_changes_and_a_bad_one_is_not_taken(guarded: Guarded) -> None:
    enforcer, file = guarded.enforcer, guarded.file

    def may(token: str) -> bool:
        try:
            enforcer.stub.Check(CHECK, timeout=30, metadata=bear(token))
        except grpc.RpcError as error:
            return error.code() != grpc.StatusCode.UNAUTHENTICATED
        return True

    assert not may("fresh")
    try:
        write_access(file, describe("backend", "fresh", "check"))
        poll(lambda: may("fresh"), "the new token")
        assert not may("secret")
        file.write_text("version: 1\ncallers: none\n")
        rejected = enforcer.wait_for_line("access_rejected")
        assert rejected["problems"] == [f"{file}:2: callers: input should be a valid tuple, not 'none'"]
        assert may("fresh")
        assert enforcer.read_metric("ratchet_access_rejected_total") == 1
    finally:
        write_access(file, BACKEND, GIVER, REPORTER, CONFINED)
        poll(lambda: may("secret"), "the first document")


LIMITED = """\
version: 1
subjects: [user]
attributes: [caller]
expected_enforcers: 1
policies:
  - name: callers
    also: true
    match: { action: "*" }
    limits:
      - { name: budget, per: [caller], capacity: 2, refill: 1/1h }
  - name: all
    match: { action: "*" }
    limits:
      - { name: per_user, per: [user], capacity: 100, refill: 100/1s }
"""


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_caller_itself_is_limited_and_cannot_call_itself_another(transport: str, tmp_path: Path) -> None:
    write_access(tmp_path / "access.yaml", *(describe(name, name, "check, refund") for name in ("one", "two", "envoy")))
    options = ("--transport", transport, "--access", str(tmp_path / "access.yaml"))
    with run_enforcer(f"redis://{NOWHERE}/0", NOWHERE, tmp_path, *options, policies=LIMITED) as enforcer:

        def check(token: str, user: str) -> int:
            request = enforcer_pb2.CheckRequest(user_id=user, action="other", attributes={"caller": "forged"})
            return enforcer.stub.Check(request, timeout=30, metadata=bear(token)).outcome

        def ask(token: str, *users: str) -> int:
            entry, descriptor = descriptor_pb2.RateLimitDescriptor.Entry, descriptor_pb2.RateLimitDescriptor
            named = [[entry(key="user", value=user), entry(key="caller", value="forged")] for user in users]
            request = rls_pb2.RateLimitRequest(domain="other", descriptors=[descriptor(entries=each) for each in named])
            return enforcer.envoy_stub.ShouldRateLimit(request, timeout=30, metadata=bear(token)).overall_code

        allow, deny = enforcer_pb2.OUTCOME_ALLOW, enforcer_pb2.OUTCOME_DENY
        assert [check("one", user) for user in ("alice", "bob", "alice", "alice")] == [allow, allow, deny, deny]
        assert [check("two", user) for user in ("alice", "alice", "alice")] == [allow, allow, deny]
        assert [ask("envoy", "alice", "bob"), ask("envoy", "alice"), ask("envoy", "alice", "bob")] == [1, 1, 2]
        batch = enforcer_pb2.CheckBatchRequest(checks=[enforcer_pb2.CheckRequest(user_id="cid", action="other")])
        results = enforcer.stub.CheckBatch(batch, timeout=30, metadata=bear("one")).results
        assert [(result.outcome, result.policy) for result in results] == [(deny, "all")]
