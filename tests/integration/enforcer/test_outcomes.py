"""What backends report and what is admitted, through to topic ``outcomes``, on both transports."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import read_topic, run_enforcer
from topics.events import FoldsEvent, LoadEvent, OutcomeEvent
from topics.proof import prove


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_reports_loads_and_suppressed_denials_reach_their_topics(
    transport: str, redis_url: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    user = f"reported-{transport}"
    options = ("--transport", transport, "--redis-timeout-ms", "1000")
    with run_enforcer(redis_url, kafka_bootstrap, tmp_path, *options) as enforcer:
        enforcer.wait_for_redis()
        enforcer.wait_for_kafka()
        second_ms = time.time_ns() // 1_000_000_000 * 1000
        latencies = [enforcer_pb2.LatencyBucket(index=460, count=2), enforcer_pb2.LatencyBucket(index=575, count=1)]
        report = enforcer_pb2.OutcomeReport(
            action="login", second_ms=second_ms, count=3, errors=1, timeouts=1, latencies=latencies
        )
        for _ in range(2):
            enforcer.stub.ReportOutcomes(enforcer_pb2.ReportOutcomesRequest(reports=[report]), timeout=30)
        told = enforcer_pb2.CheckRequest(
            user_id=user, action="login", suppressed=7, suppressed_limits=["login:per_user", "login:unknown"]
        )
        assert enforcer.stub.Check(told, timeout=30).outcome == enforcer_pb2.OUTCOME_ALLOW
        enforcer.check(f"{user}-2", cost=2)
        assert enforcer.read_metric("ratchet_outcome_reports_total") == 2
        assert enforcer.stop() == 0

    events = [event for _, event in read_topic(kafka_bootstrap, "outcomes", enforcer.source)]
    outcomes = [event for event in events if isinstance(event, OutcomeEvent)]
    assert {(event.action, event.second_ms) for event in outcomes} == {("login", second_ms)}
    assert sum(event.count for event in outcomes) == 6
    assert sum(event.errors for event in outcomes) == sum(event.timeouts for event in outcomes) == 2
    assert sum(event.latencies[460] for event in outcomes) == 4
    loads = [event for event in events if isinstance(event, LoadEvent)]
    assert sum(event.admitted_tokens for event in loads) == 3
    assert sum(event.active_subjects for event in loads) == 2
    folds = [
        (fold.subject, fold.limit, fold.count)
        for _, event in read_topic(kafka_bootstrap, "denials", enforcer.source)
        if isinstance(event, FoldsEvent)
        for fold in event.folds
    ]
    assert folds == [(f"user={user}", "per_user", 7)]
    report_of = {account.source: account for account in asyncio.run(prove(kafka_bootstrap, "outcomes")).accounts}
    assert report_of[enforcer.source].state == "closed"
    assert not report_of[enforcer.source].is_faulty
