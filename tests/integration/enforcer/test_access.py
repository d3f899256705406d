"""With an access document only known tokens call, on either transport; balancers still see the health."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from ratchet.envoy import rls_pb2
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, run_enforcer

NEEDED = "a bearer token that this enforcer knows is needed: metadata `authorization: Bearer TOKEN`"


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_calls_need_a_known_token_and_health_does_not(transport: str, tmp_path: Path) -> None:
    document = tmp_path / "access.yaml"
    known = hashlib.sha256(b"secret").hexdigest()
    document.write_text(f"version: 1\ntokens:\n  - {{ name: backend, sha256: '{known}' }}\n")
    options = ("--transport", transport, "--tokens", str(document))
    with run_enforcer(f"redis://{NOWHERE}/0", NOWHERE, tmp_path, *options) as enforcer:
        check = enforcer_pb2.CheckRequest(user_id="alice", action="other")
        envoys = rls_pb2.RateLimitRequest(domain="other")
        calls: list[tuple[Callable[..., object], object]] = [
            (enforcer.stub.Check, check),
            (enforcer.stub.CheckBatch, enforcer_pb2.CheckBatchRequest(checks=[check])),
            (enforcer.stub.ReportOutcomes, enforcer_pb2.ReportOutcomesRequest()),
            (enforcer.envoy_stub.ShouldRateLimit, envoys),
        ]
        for call, request in calls:
            for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "secret"),)):
                with pytest.raises(grpc.RpcError) as refused:
                    call(request, timeout=30, metadata=metadata)
                assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, NEEDED)
        assert enforcer.read_metric("ratchet_events_offered_total") == 0
        let_in = (("authorization", "Bearer secret"),)
        assert enforcer.stub.Check(check, timeout=30, metadata=let_in).outcome == enforcer_pb2.OUTCOME_ALLOW
        assert enforcer.envoy_stub.ShouldRateLimit(envoys, timeout=30, metadata=let_in).overall_code == 1
        assert enforcer.ask_health() == health_pb2.HealthCheckResponse.SERVING
