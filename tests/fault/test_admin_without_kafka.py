"""Kafka or Redis is away while a person decides: the call fails, and its repetition completes it."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import grpc
import pytest

from devstack.stack import StackSpec, start
from ratchet.v1 import admin_pb2, admin_pb2_grpc, enforcer_pb2
from tests.detector_under_test import read_topic
from tests.integration.enforcer.enforcer_under_test import NOWHERE, run_enforcer
from topics.events import VerdictEvent

WITHIN_S = 30.0


def make_ban() -> admin_pb2.ImposeBanRequest:
    return admin_pb2.ImposeBanRequest(
        change=admin_pb2.Change(request_id=uuid.uuid4().hex, reason="stole a card"),
        subject=admin_pb2.Subject(kind="user", value=f"user-{uuid.uuid4().hex[:8]}"),
        duration_ms=60_000,
    )


def test_change_stands_while_kafka_is_away_and_its_repetition_tells_it(redis_url: str, tmp_path: Path) -> None:
    request = make_ban()
    with start(StackSpec(parts=frozenset({"kafka"}))) as stack:
        (kafka,) = (state.name for state in stack.states())
        stack.kill(kafka)
        with run_enforcer(redis_url, stack.kafka_bootstrap, tmp_path, "--redis-timeout-ms", "1000") as enforcer:
            enforcer.wait_for_redis()
            admin = admin_pb2_grpc.EnforcerAdminStub(enforcer.channel)
            with pytest.raises(grpc.RpcError) as refused:
                admin.ImposeBan(request, timeout=WITHIN_S)
            assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNAVAILABLE, "Kafka is away")
            assert enforcer.check(request.subject.value).outcome == enforcer_pb2.OUTCOME_BAN
            stack.restart(kafka)
            enforcer.wait_for_kafka()
            answer = admin.ImposeBan(request, timeout=WITHIN_S)
            assert answer.repeated_call
        records = asyncio.run(read_topic(stack.kafka_bootstrap, "verdicts"))
    [event] = [VerdictEvent.model_validate_json(value) for _, value in records]
    assert (event.verdict_id, event.reason, event.rev) == (answer.verdict_id, "stole a card", answer.rev)


def test_nothing_is_changed_while_redis_is_away(tmp_path: Path) -> None:
    with run_enforcer(f"redis://{NOWHERE}/0", NOWHERE, tmp_path) as enforcer:
        admin = admin_pb2_grpc.EnforcerAdminStub(enforcer.channel)
        for call in (
            lambda: admin.ImposeBan(make_ban(), timeout=WITHIN_S),
            lambda: admin.ListBans(admin_pb2.ListBansRequest(), timeout=WITHIN_S),
            lambda: admin.Explain(admin_pb2.ExplainRequest(subject=make_ban().subject, action="login"), timeout=WITHIN_S),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert str(refused.value.details()).startswith("Redis: ")
