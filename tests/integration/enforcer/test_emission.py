"""What an enforcer says in Kafka, proven after it drained; and what its process says when it cannot start."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, poll, read_topic, run_enforcer
from topics.events import ClosedEvent, DecisionEvent, FoldsEvent, HeartbeatEvent
from topics.folding import hash_text
from topics.proof import prove
from topics.specs import DECISIONS, DENIALS

IP = {"ip": "198.51.100.77"}


def run_to_the_end(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "enforcer", "run", "--spool", str(folder / "spool"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_sigterm_drains_and_every_decision_is_in_the_topic(
    transport: str, redis_url: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    options = ("--transport", transport, "--redis-timeout-ms", "1000", "--drain-ms", "700", "--instance", "tested")
    user = f"drained-{transport}"
    with run_enforcer(redis_url, kafka_bootstrap, tmp_path, *options) as enforcer:
        enforcer.wait_for_redis()
        enforcer.wait_for_kafka()
        assert enforcer.source.startswith("tested/")
        for _ in range(8):
            enforcer.check(user, attributes=IP)
        enforcer.check(user, cost=0)  # changes nothing and is not emitted
        checks = [enforcer_pb2.CheckRequest(user_id=f"{user}-{number}", action="other") for number in range(50)]
        enforcer.stub.CheckBatch(enforcer_pb2.CheckBatchRequest(checks=checks), timeout=30)
        with pytest.raises(grpc.RpcError):
            enforcer.check("")  # refused as a request: no decision

        enforcer.process.send_signal(signal.SIGTERM)

        def is_draining() -> bool:
            try:
                return enforcer.ask_health() == health_pb2.HealthCheckResponse.NOT_SERVING
            except grpc.RpcError:
                return False

        poll(is_draining, "NOT_SERVING")
        assert enforcer.check(f"{user}-late").outcome == enforcer_pb2.OUTCOME_ALLOW
        assert enforcer.stop() == 0
        assert enforcer.wait_for_line("enforcer_stopped")["decisions"] == 60
        source = enforcer.source

    records = read_topic(kafka_bootstrap, DECISIONS.name, source)
    decisions = sorted((event for _, event in records if isinstance(event, DecisionEvent)), key=lambda event: event.seq)
    assert [event.seq for event in decisions] == list(range(1, 60))
    closed = [(partition, event.seq) for partition, event in records if isinstance(event, ClosedEvent)]
    assert sorted(closed) == [(partition, 59) for partition in range(DECISIONS.partitions)]
    assert {partition for partition, event in records if isinstance(event, HeartbeatEvent)} == set(range(DECISIONS.partitions))

    mine = [event for event in decisions if event.user_id == user]
    assert [(event.outcome, event.reason) for event in mine] == [("allow", "ok")] * 5 + [("deny", "limit")] * 3
    assert [event.remaining for event in mine] == [4, 3, 2, 1, 0, 0, 0, 0]
    first, last = mine[0], mine[-1]
    assert (first.action, first.policy, first.attributes, first.limits) == ("login", "login", IP, ())
    assert (last.limits, last.degraded) == (("login:per_user",), False)
    assert 0 < last.retry_after_ms <= 12_000
    assert len({partition for partition, event in records if isinstance(event, DecisionEvent) and event.user_id == user}) == 1

    records = read_topic(kafka_bootstrap, DENIALS.name, source)
    folds = [fold for _, event in records if isinstance(event, FoldsEvent) for fold in event.folds]
    counts = Counter[tuple[str, str]]()
    for fold in folds:
        counts[fold.subject, fold.limit] += fold.count
    assert counts == {(f"user={user}", "per_user"): 3}
    assert all(fold.users == () for fold in folds)
    assert {partition for partition, event in records if isinstance(event, ClosedEvent)} == set(range(DENIALS.partitions))

    async def audit() -> None:
        for topic in (DECISIONS.name, DENIALS.name):
            report = await prove(kafka_bootstrap, topic)  # type: ignore[arg-type]
            own = [account for account in report.accounts if account.source == source]
            assert own
            assert all(account.state == "closed" and not account.is_faulty for account in own)
            if topic == DECISIONS.name:  # other tests leave records in `denials` that are no events
                assert report.undecodable == 0

    asyncio.run(audit())


def test_an_ips_fold_tells_who_was_refused_behind_it(redis_url: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    with run_enforcer(redis_url, kafka_bootstrap, tmp_path, "--redis-timeout-ms", "1000") as enforcer:
        enforcer.wait_for_redis()
        enforcer.wait_for_kafka()
        attributes = {"ip": "198.51.100.78", "country": "is", "agent": "curl"}
        checks = [
            enforcer_pb2.CheckRequest(user_id=f"u{number}", action="login", attributes=attributes) for number in range(40)
        ]
        answers = enforcer.stub.CheckBatch(enforcer_pb2.CheckBatchRequest(checks=checks), timeout=30)
        refused = [number for number, answer in enumerate(answers.results) if answer.outcome == enforcer_pb2.OUTCOME_DENY]
        assert refused == list(range(30, 40))
        assert enforcer.stop() == 0
        source = enforcer.source
    records = read_topic(kafka_bootstrap, DENIALS.name, source)
    folds = [fold for _, event in records if isinstance(event, FoldsEvent) for fold in event.folds]
    assert {fold.subject for fold in folds} == {"ip=198.51.100.78"}
    assert sum(fold.count for fold in folds) == 10
    assert {user for fold in folds for user in fold.users} == {hash_text(f"u{number}") for number in refused}
    assert all(fold.attributes == {"agent": "curl", "country": "is"} for fold in folds)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_port_that_is_taken_is_told_and_exits_with_3(transport: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        nowhere = ("--redis", f"redis://{NOWHERE}/0", "--kafka", NOWHERE)
        code, message = run_to_the_end(tmp_path, "--port", port, "--metrics-port", "0", "--transport", transport, *nowhere)
        assert code == 3
        assert f"cannot listen on 127.0.0.1:{port}: another process holds it, or it is no address of this host" in message


def test_metrics_port_that_is_taken_is_told_and_exits_with_3(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        nowhere = ("--redis", f"redis://{NOWHERE}/0", "--kafka", NOWHERE)
        code, message = run_to_the_end(tmp_path, "--port", "0", "--metrics-port", port, *nowhere)
        assert code == 3
        assert f"cannot listen on 127.0.0.1:{port} for metrics" in message


def test_bad_policies_exit_with_2_and_a_line_for_each_problem(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text("version: 2\nsubjects: [user]\npolicies: []\n")
    code, message = run_to_the_end(tmp_path, "--port", "0", "--policies", str(file))
    assert code == 2
    assert message.splitlines() == [
        f"{file}:1: version: input should be 1, not 2",
        f"{file}:3: policies: tuple should have at least 1 item after validation, not 0",
    ]
