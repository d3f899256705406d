"""The backend, the traffic simulator and the replay against one running system."""

import asyncio
import gzip
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from examples.actors import VICTIM
from examples.system import ROOT, System, SystemAddresses, SystemSpec
from examples.topic_reader import TopicReader
from topics.events import DecisionEvent, VerdictEvent

REAL_LOG = Path(os.environ.get("RATCHET_ACCESS_LOG", ROOT.parent / "shared" / "data" / "apache_logs"))

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addresses() -> AsyncIterator[SystemAddresses]:
    async with System(SystemSpec()) as system:
        yield system.addresses


async def run(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments,
        cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_backend_answers_200_401_429_and_403_with_the_headers_of_each(addresses: SystemAddresses) -> None:
    async def log_in(session: aiohttp.ClientSession, password: str) -> aiohttp.ClientResponse:
        credentials = {"user": "curl", "password": password}
        headers = {"x-forwarded-for": "198.18.7.7"}
        return await session.post(f"{addresses.backend}/login", json=credentials, headers=headers)

    async with aiohttp.ClientSession() as session:
        right = await log_in(session, "curl-secret")
        assert (right.status, right.headers["x-ratchet-outcome"]) == (200, "allow")
        assert '"per_user";q=5' in right.headers["RateLimit-Policy"]
        assert '"per_user";r=4;t=12' in right.headers["RateLimit"]
        wrong = await log_in(session, "guess")
        assert wrong.status == 401
        statuses = [(await log_in(session, "guess")).status for _ in range(4)]
        assert statuses == [401, 401, 401, 429]
        deadline = time.monotonic() + 30
        while (last := await log_in(session, "guess")).status == 429 and time.monotonic() < deadline:
            assert 1 <= int(last.headers["Retry-After"]) <= 12
        problem = await last.json(content_type="application/problem+json")
        assert (last.status, problem["ban_rule"], problem["status"]) == (403, "brute_force", 403)
        assert 50 <= int(last.headers["Retry-After"]) <= 60
        search = await session.get(f"{addresses.backend}/search", params={"q": "tea"}, headers={"x-user": "curl"})
        assert search.status == 200


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_simulated_traffic_bans_the_attacked_user_and_nobody_else(addresses: SystemAddresses, scheme: str) -> None:
    target = addresses.backend if scheme == "http" else f"grpc://{addresses.envoy}"
    async with TopicReader(addresses.kafka, ["decisions", "verdicts"]) as reader:
        code, text = await run("examples.traffic", "--target", target, "--seconds", "5", "--speed", "4", "--seed", "7")
        assert code == 0, text
        events = [event async for event in reader.read_to_end()]
    assert "login" in text
    assert "search" in text
    decisions = [event for event in events if isinstance(event, DecisionEvent)]
    assert len(decisions) > 200
    # The verdict about the user of the test above may come only now: a ban is in Redis before its verdict is in Kafka.
    assert {event.subject for event in events if isinstance(event, VerdictEvent)} <= {f"user={VICTIM}", "user=curl"}
    assert any(event.user_id == VICTIM and event.outcome == "ban" for event in decisions)
    assert not [event for event in decisions if event.outcome == "ban" and event.user_id not in (VICTIM, "curl")]


async def test_traffic_ends_after_its_count(addresses: SystemAddresses) -> None:
    code, text = await run("examples.traffic", "--target", f"grpc://{addresses.envoy}", "--count", "40", "--speed", "50")
    assert code == 0, text
    assert "40 requests" in text


async def test_every_request_of_a_log_is_a_decision_in_the_topic(addresses: SystemAddresses, tmp_path: Path) -> None:
    lines = [
        f'198.18.{number % 7}.1 - - [17/May/2015:10:05:{number % 20:02} +0000] "POST /login HTTP/1.1" 200 1 "-" "test"\n'
        for number in range(600)
    ]
    lines.insert(10, "no request\n")
    path = tmp_path / "access.log.gz"
    path.write_bytes(gzip.compress("".join(lines).encode()))
    code, text = await run(
        "examples.replay", str(path), "--target", addresses.envoy, "--speed", "20", "--audit", "--kafka", addresses.kafka
    )
    assert code == 0, text
    assert "600 of 600 decisions are in topic decisions" in text
    assert "line 11: not of the form" in text
    assert "login:per_" in text


@pytest.mark.skipif(not REAL_LOG.exists(), reason="no real access log: name one with RATCHET_ACCESS_LOG")
async def test_every_request_of_a_real_log_is_decided_and_the_audit_stays_clean(addresses: SystemAddresses) -> None:
    options = ("--target", addresses.envoy, "--speed", "max", "--concurrency", "64", "--audit", "--kafka", addresses.kafka)
    code, text = await run("examples.replay", str(REAL_LOG), *options)
    assert code == 0, text
    assert "10,000 of 10,000 decisions are in topic decisions" in text
    code, text = await run("topics", "audit", "decisions", "--bootstrap", addresses.kafka)
    assert code == 0, text
