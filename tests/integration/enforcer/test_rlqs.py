"""Envoy's quota filter, driven by an enforcer: the real Envoy, Redis and Kafka."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from enforcer.admin.ruling import Ruling
from enforcer.admin.subject_store import SubjectStore
from enforcer.envoy.quota_keeper import LEAST_LIFETIME_S, USUAL_INTERVAL_S
from ratchet.envoy import rlqs_pb2, rlqs_pb2_grpc
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, read_topic, run_enforcer
from tests.integration.enforcer.quota_envoy import DOMAIN, QuotaEnvoy, run_quota_envoy
from topics.events import DecisionEvent, FoldsEvent

POLICIES = """
version: 1
subjects: [user, ip]
policies:
  - name: api
    match: { action: api }
    limits: [{ name: per_user, per: [user], capacity: 20, refill: 20/1s }]
  - { name: free, match: { action: free }, limits: [] }
  - name: default
    match: { action: "*" }
    limits: [{ name: per_user, per: [user], capacity: 20, refill: 20/1s }]
"""
PER_S = 20
_Reports = rlqs_pb2.RateLimitQuotaUsageReports


@dataclass
class System:
    enforcer: EnforcerProcess
    envoys: tuple[QuotaEnvoy, QuotaEnvoy]


@pytest.fixture(scope="module")
def system(redis_url: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One enforcer and two Envoys that let nothing pass before they are assigned a quota."""
    folder = tmp_path_factory.mktemp("rlqs")
    with (
        run_enforcer(redis_url, kafka_bootstrap, folder, policies=POLICIES) as enforcer,
        run_quota_envoy(folder, enforcer.address, before="DENY_ALL") as first,
        run_quota_envoy(folder, enforcer.address, before="DENY_ALL") as second,
    ):
        enforcer.wait_for_redis()
        yield System(enforcer, (first, second))


def test_envoy_refuses_what_is_beyond_the_limit_and_lets_pass_what_is_within(system: System) -> None:
    envoy = system.envoys[0]
    envoy.wait_for("fast", 200)
    counts = envoy.send("fast", per_s=80, for_s=6)
    assert counts[200] <= PER_S + PER_S * 6 * 1.05
    assert counts[200] >= PER_S * 6 * 0.9
    assert counts[429] == 80 * 6 - counts[200]


def test_two_envoys_share_a_limit(system: System) -> None:
    for envoy in system.envoys:
        envoy.wait_for("shared", 200)
    with ThreadPoolExecutor(2) as pool:
        began = list(pool.map(lambda envoy: envoy.send("shared", 80, USUAL_INTERVAL_S + 1), system.envoys))
        counts = list(pool.map(lambda envoy: envoy.send("shared", 80, 6), system.envoys))
    assert sum(each[200] for each in began) <= PER_S + PER_S * 2 * USUAL_INTERVAL_S, "two intervals of shares at most"
    assert sum(each[200] for each in counts) <= PER_S * 6 * 1.1 + PER_S, (began, counts)
    for each in counts:
        assert each[200] == pytest.approx(PER_S * 6 / 2, rel=0.3), (began, counts)


async def test_a_ban_blocks_within_a_second_and_a_lift_opens_again(system: System, redis_url: str) -> None:
    envoy = system.envoys[0]
    envoy.wait_for("mallory", 200)
    async with Redis.from_url(redis_url) as client:
        store = SubjectStore(client)
        await store.rule(Ruling("rlqs-ban", "d", "user=mallory", "ban", "tester", "a test", ("*",), 3_600_000))
        began_s = time.monotonic()
        envoy.wait_for("mallory", 429)
        assert envoy.send("mallory", 50, 0.5) == Counter({429: 25})
        await store.rule(Ruling("rlqs-lift", "d", "user=mallory", "lift", "tester", "a test"))
        envoy.wait_for("mallory", 200)
        assert time.monotonic() - began_s < USUAL_INTERVAL_S, "told at once, not with the next report"


def test_every_request_is_in_the_topic_once_it_was_reported(system: System, kafka_bootstrap: str) -> None:
    envoy = system.envoys[1]
    counts: Counter[int] = Counter()
    while counts[200] == 0:
        counts[envoy.get("counted")] += 1
        time.sleep(0.02)
    counts += envoy.send("counted", 200, 3)
    deadline_s = time.monotonic() + 30
    while True:
        events = [event for _, event in read_topic(kafka_bootstrap, "decisions", system.enforcer.source)]
        mine = [event for event in events if isinstance(event, DecisionEvent) and event.user_id == "counted"]
        allowed = sum(event.cost for event in mine if event.outcome == "allow")
        denied = sum(1 + event.suppressed for event in mine if event.outcome == "deny")
        if (allowed, denied) == (counts[200], counts[429]):
            break
        assert time.monotonic() < deadline_s, (allowed, denied, counts)
        time.sleep(0.2)
    assert all(event.reported and event.action == DOMAIN and event.policy == "api" for event in mine)
    folds = [
        fold
        for _, event in read_topic(kafka_bootstrap, "denials", system.enforcer.source)
        if isinstance(event, FoldsEvent)
        for fold in event.folds
        if fold.subject == "user=counted"
    ]
    assert 0 < sum(fold.count for fold in folds) <= counts[429], "what the whole limit would have refused counts, no more"


def test_check_and_quota_spend_from_one_bucket(system: System) -> None:
    envoy = system.envoys[0]
    envoy.wait_for("both", 200)
    envoy.send("both", 60, 2 * USUAL_INTERVAL_S)
    answer = system.enforcer.check("both", action="api", cost=20)
    assert answer.limits[0].refused, "the bucket has paid for what Envoy let pass"


def test_a_header_that_is_no_text_gets_no_quota_and_harms_nobody_else(system: System) -> None:
    envoy = system.envoys[0]
    envoy.wait_for("beside", 200)
    unreadable = system.enforcer.read_metric("ratchet_quota_unreadable_reports_total")
    assert envoy.send("odd \xff\xfe", 20, USUAL_INTERVAL_S + 1) == Counter({429: 20 * (int(USUAL_INTERVAL_S) + 1)})
    assert system.enforcer.read_metric("ratchet_quota_unreadable_reports_total") >= unreadable + 2
    assert system.enforcer.read_metric("ratchet_quota_streams") == 2, "the stream that serves the others goes on"
    envoy.wait_for("after", 200)


def open_stream(
    channel: grpc.Channel, reports: list[_Reports], metadata: tuple[tuple[str, str], ...] = ()
) -> Iterator[rlqs_pb2.RateLimitQuotaResponse]:
    stub = rlqs_pb2_grpc.RateLimitQuotaServiceStub(channel)
    return stub.StreamRateLimitQuotas(iter(reports), timeout=30, metadata=metadata)


def report(domain: str, **bucket: str) -> _Reports:
    usage = _Reports.BucketQuotaUsage(bucket_id=rlqs_pb2.BucketId(bucket=bucket), num_requests_allowed=1)
    return _Reports(domain=domain, bucket_quota_usages=[usage])


@pytest.fixture(params=["native", "grpcio"])
def alone(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[EnforcerProcess]:
    """An enforcer on each transport, that keeps to itself."""
    with run_enforcer(redis_url, NOWHERE, tmp_path, "--transport", request.param, policies=POLICIES) as enforcer:
        enforcer.wait_for_redis()
        yield enforcer


def test_streams_are_answered_on_either_transport_whatever_they_hold(alone: EnforcerProcess) -> None:
    limited = next(open_stream(alone.channel, [report("api", user=alone.source)]))
    strategy = limited.bucket_action[0].quota_assignment_action.rate_limit_strategy
    assert strategy.token_bucket.max_tokens == PER_S
    free = next(open_stream(alone.channel, [report("free", user="alice")]))
    assert free.bucket_action[0].quota_assignment_action.rate_limit_strategy.WhichOneof("strategy") == "blanket_rule"
    odd = next(open_stream(alone.channel, [report("\n" * 5000, user="é" * 5000 + alone.source, **{"\0": ""})]))
    assert odd.bucket_action[0].quota_assignment_action.rate_limit_strategy.token_bucket.max_tokens == PER_S
    assert list(open_stream(alone.channel, [report("api")])) == [], "a bucket without an id gets no answer"
    assert alone.read_metric("ratchet_quota_unreadable_reports_total") == 1
    with pytest.raises(grpc.RpcError) as refused:
        list(open_stream(alone.channel, [report("")]))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "domain is empty in the first message"


def test_an_enforcer_that_drains_ends_its_streams(alone: EnforcerProcess) -> None:
    ended = threading.Event()

    def send() -> Iterator[_Reports]:
        yield report("api", user=alone.source)
        ended.wait()

    answers = rlqs_pb2_grpc.RateLimitQuotaServiceStub(alone.channel).StreamRateLimitQuotas(send(), timeout=60)
    assert next(answers).bucket_action
    assert alone.stop() == 0
    assert list(answers) == [], "in order, not broken off: the data plane opens another"
    ended.set()


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_a_stream_needs_the_role_and_the_action(transport: str, redis_url: str, tmp_path: Path) -> None:
    document = tmp_path / "access.yaml"
    token = hashlib.sha256(b"secret").hexdigest()
    document.write_text(
        f"version: 1\ncallers:\n  - {{ name: edge, tokens: ['{token}'], roles: [check], actions: [api], certificates: [] }}\n"
    )
    options = ("--transport", transport, "--access", str(document))
    with run_enforcer(redis_url, NOWHERE, tmp_path, *options, policies=POLICIES) as enforcer:
        enforcer.wait_for_redis()
        known = (("authorization", "Bearer secret"),)
        assert next(open_stream(enforcer.channel, [report("api", user=enforcer.source)], known)).bucket_action
        for metadata, domain, code in (
            ((), "api", grpc.StatusCode.UNAUTHENTICATED),
            (known, "other", grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                next(open_stream(enforcer.channel, [report(domain, user="alice")], metadata))
            assert refused.value.code() is code


def test_when_the_enforcer_is_gone_assignments_hold_and_then_run_out(redis_url: str, tmp_path: Path) -> None:
    with run_enforcer(redis_url, NOWHERE, tmp_path, policies=POLICIES) as enforcer:
        enforcer.wait_for_redis()
        with (
            run_quota_envoy(tmp_path, enforcer.address, before="ALLOW_ALL") as opening,
            run_quota_envoy(tmp_path, enforcer.address, before="ALLOW_ALL", expired="DENY_ALL") as closing,
        ):
            opening.wait_for("expiring", 429)
            closing.wait_for("expiring", 429)
            enforcer.close()
            gone_s = time.monotonic()
            opening.wait_for("expiring", 429)  # the assignment holds
            while opening.send("expiring", 200, 0.5)[429]:
                assert time.monotonic() < gone_s + LEAST_LIFETIME_S + 5
            assert time.monotonic() > gone_s + LEAST_LIFETIME_S - USUAL_INTERVAL_S - 1
            closing.wait_for("expiring", 429)
            assert closing.send("expiring", 20, 1) == Counter({429: 20})
