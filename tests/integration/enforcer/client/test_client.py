"""Both clients against real enforcers, on both transports, and what they do when there is none."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enforcer.client import AsyncClient, Check, Client, Decision, InvalidCheck, NoDecision
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, read_topic, run_enforcer
from topics.events import DecisionEvent, FoldsEvent, OutcomeEvent

PATIENT_S = 30.0
"""These tests ask what is answered, not how fast, on a machine that is busy."""


@pytest.fixture(scope="module")
def pair(
    redis_url: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EnforcerProcess, EnforcerProcess]]:
    """Two enforcers, one of each transport."""
    options = ("--redis-timeout-ms", "1000", "--transport")
    with (
        run_enforcer(redis_url, kafka_bootstrap, tmp_path_factory.mktemp("a"), *options, "native") as first,
        run_enforcer(redis_url, kafka_bootstrap, tmp_path_factory.mktemp("b"), *options, "grpcio") as second,
    ):
        for one in (first, second):
            one.wait_for_redis()
            one.wait_for_kafka()
        yield first, second


@pytest.fixture
def addresses(pair: tuple[EnforcerProcess, EnforcerProcess]) -> tuple[str, str]:
    return pair[0].address, pair[1].address


@pytest.fixture
def user() -> str:
    return f"user {uuid.uuid4()}"


async def test_checks_are_decided_remembered_and_counted(addresses: tuple[str, str], user: str) -> None:
    async with AsyncClient(*addresses, without_enforcer="raise", timeout_s=PATIENT_S) as client:
        decisions = [await client.check(user, "login", attributes={"ip": "203.0.113.7"}) for _ in range(8)]
        assert [decision.http_status for decision in decisions] == [200] * 5 + [429] * 3
        assert [decision.is_remembered for decision in decisions] == [False] * 6 + [True] * 2
        assert [limit.remaining for limit in decisions[0].limits if limit.name == "per_user"] == [4]
        with pytest.raises(InvalidCheck, match="cost is 6; limit login:per_user holds at most 5 tokens"):
            await client.check(user, "login", 6)


async def test_what_is_awaited_together_is_decided_together_and_one_bad_check_fails_alone(
    pair: tuple[EnforcerProcess, EnforcerProcess], user: str
) -> None:
    before = [one.read_metric("ratchet_redis_checks_total") for one in pair]
    async with AsyncClient(pair[0].address, without_enforcer="raise", timeout_s=PATIENT_S) as client:
        costs = [1, 9, 1, 1]
        answers = await asyncio.gather(
            *[client.check(f"{user}{number}", "login", cost) for number, cost in enumerate(costs)], return_exceptions=True
        )
        assert [isinstance(answer, InvalidCheck) for answer in answers] == [False, True, False, False]
        allowed = await asyncio.gather(*[client.check(f"{user} many", "login") for _ in range(40)])
        assert Counter(decision.outcome for decision in allowed) == {"allow": 5, "deny": 35}
    assert pair[1].read_metric("ratchet_redis_checks_total") == before[1]
    assert pair[0].read_metric("ratchet_redis_checks_total") > before[0]


async def test_an_explicit_batch_is_answered_in_order_or_names_its_first_bad_check(
    addresses: tuple[str, str], user: str
) -> None:
    async with AsyncClient(*addresses, without_enforcer="raise", timeout_s=PATIENT_S) as client:
        checks = [Check(user, "login", 2)] * 3 + [Check(f"{user} other", "login")]
        assert [decision.outcome for decision in await client.check_batch(checks)] == ["allow", "allow", "deny", "allow"]
        with pytest.raises(InvalidCheck, match=r"checks\[1\]: cost is 6; limit login:per_user holds at most 5 tokens"):
            await client.check_batch([Check(user, "login", 2), Check(f"{user} third", "login", 6)])
        again = await client.check_batch([Check(user, "login", 2), Check(f"{user} other", "login")])
        assert [(decision.outcome, decision.is_remembered) for decision in again] == [("deny", True), ("allow", False)]
        assert await client.check_batch([]) == []


def test_threads_share_one_client(addresses: tuple[str, str], user: str) -> None:
    with Client(*addresses, without_enforcer="raise", timeout_s=PATIENT_S) as client, ThreadPoolExecutor(8) as threads:
        decisions = list(threads.map(lambda _: client.check(user, "login"), range(40)))
        assert Counter(decision.outcome for decision in decisions) == {"allow": 5, "deny": 35}
        checks = [Check(f"{user} batch", "login", 2)] * 3
        assert [decision.outcome for decision in client.check_batch(checks)] == ["allow", "allow", "deny"]
        with pytest.raises(InvalidCheck, match=r"checks\[0\]: cost is 6"):
            client.check_batch([Check(f"{user} fresh", "login", 6)])
        with pytest.raises(InvalidCheck, match="cost is 6"):
            client.check(f"{user} fresh", "login", 6)


async def test_calls_go_round_all_enforcers_and_past_one_that_has_gone(
    redis_url: str, kafka_bootstrap: str, tmp_path: Path, pair: tuple[EnforcerProcess, EnforcerProcess], user: str
) -> None:
    folder = tmp_path / "third"
    folder.mkdir()
    with run_enforcer(redis_url, kafka_bootstrap, folder, "--redis-timeout-ms", "1000", "--drain-ms", "300") as third:
        third.wait_for_redis()
        addresses = (pair[0].address, third.address)
        async with AsyncClient(*addresses, without_enforcer="raise", timeout_s=PATIENT_S, remembers_denials=False) as client:

            async def ask_until_both_answered() -> None:
                async with asyncio.timeout(PATIENT_S):
                    while third.read_metric("ratchet_redis_checks_total") == 0:
                        await client.check(user, "other")

            await ask_until_both_answered()
            third.process.send_signal(signal.SIGTERM)  # says NOT_SERVING, drains, ends
            while third.process.poll() is None:
                assert not (await client.check(user, "other")).failure
            for _ in range(20):
                assert not (await client.check(user, "other")).failure


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_an_enforcer_that_hangs_loses_its_calls_for_seconds_only(
    transport: str,
    redis_url: str,
    kafka_bootstrap: str,
    tmp_path: Path,
    pair: tuple[EnforcerProcess, EnforcerProcess],
    user: str,
) -> None:
    folder = tmp_path / "hung"
    folder.mkdir()
    options = ("--redis-timeout-ms", "1000", "--transport", transport)
    with run_enforcer(redis_url, kafka_bootstrap, folder, *options) as hung:
        hung.wait_for_redis()
        async with AsyncClient(
            pair[0].address, hung.address, without_enforcer="deny", timeout_s=0.5, remembers_denials=False
        ) as client:
            async with asyncio.timeout(PATIENT_S):
                while hung.read_metric("ratchet_redis_checks_total") == 0:
                    await client.check(user, "other")
            hung.process.send_signal(signal.SIGSTOP)
            try:
                failures = 0
                in_a_row = 0
                async with asyncio.timeout(PATIENT_S):
                    while in_a_row < 20:
                        decision = await client.check(user, "other")
                        failures += bool(decision.failure)
                        in_a_row = 0 if decision.failure else in_a_row + 1
                        await asyncio.sleep(0.02)
                assert failures > 0
            finally:
                hung.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(("choice", "status"), [("allow", 200), ("deny", 503)])
def test_without_an_enforcer_the_choice_decides(choice: str, status: int) -> None:
    with Client(NOWHERE, without_enforcer=choice) as client:  # type: ignore[arg-type]
        decision = client.check("alice", "login")
        assert (decision.http_status, decision.reason, decision.failure) == (status, "no_decision", "unavailable")
        (decision,) = client.check_batch([Check("alice", "login")])
        assert decision.http_status == status


async def test_without_an_enforcer_it_may_raise_and_nothing_is_waited_for() -> None:
    async with AsyncClient(NOWHERE, without_enforcer="raise") as client:
        with pytest.raises(NoDecision, match="unavailable"):
            await client.check("alice", "login")
        with pytest.raises(NoDecision, match=f"nobody answers at {NOWHERE}"):
            await client.wait_until_reachable(0.1)
        with pytest.raises(NoDecision, match="unavailable"):
            await client.check_batch([Check("alice", "login")])
        client.observe("login", 0.1)


async def test_what_is_observed_is_in_the_topic_and_suppressed_denials_are_folded(
    redis_url: str, kafka_bootstrap: str, tmp_path: Path, user: str
) -> None:
    policies = (
        "version: 1\nsubjects: [user]\npolicies:\n  - name: d\n    match: { action: '*' }\n    limits:\n"
        "      - { name: fast, per: [user], capacity: 1, refill: 1/400ms }\n"
    )
    with run_enforcer(redis_url, kafka_bootstrap, tmp_path, "--redis-timeout-ms", "1000", policies=policies) as enforcer:
        enforcer.wait_for_redis()
        enforcer.wait_for_kafka()
        async with AsyncClient(enforcer.address, without_enforcer="raise", timeout_s=PATIENT_S) as client:
            client.observe("login", 0.02)
            client.observe("login", 0.5, is_error=True, is_timeout=True)
            decisions: list[Decision] = []
            async with asyncio.timeout(PATIENT_S):
                # Until the memory of a denial has ended and the check that tells of it was allowed.
                while sum(decision.is_allowed for decision in decisions) < 2 or not any(d.is_remembered for d in decisions):
                    decisions.append(await client.check(user, "x"))
                    await asyncio.sleep(0)
        with Client(enforcer.address, without_enforcer="raise", timeout_s=PATIENT_S) as client:
            client.observe("login", 0.02)
        denied = sum(not decision.is_allowed for decision in decisions)
        assert enforcer.stop() == 0
    folds = [
        fold
        for _, event in await asyncio.to_thread(read_topic, kafka_bootstrap, "denials", enforcer.source)
        if isinstance(event, FoldsEvent)
        for fold in event.folds
    ]
    assert {(fold.subject.partition("%")[0], fold.limit) for fold in folds} == {("user=user", "fast")}
    assert sum(fold.count for fold in folds) == denied
    events = [event for _, event in await asyncio.to_thread(read_topic, kafka_bootstrap, "decisions", enforcer.source)]
    told = [event for event in events if isinstance(event, DecisionEvent)]
    assert sum(event.suppressed for event in told) + sum(event.outcome == "deny" for event in told) == denied
    reported = [event for _, event in await asyncio.to_thread(read_topic, kafka_bootstrap, "outcomes", enforcer.source)]
    outcomes = [event for event in reported if isinstance(event, OutcomeEvent)]
    assert {event.action for event in outcomes} == {"login"}
    assert sum(event.count for event in outcomes) == 3
    assert (sum(event.errors for event in outcomes), sum(event.timeouts for event in outcomes)) == (1, 1)


def test_importing_the_client_brings_nothing_of_the_service() -> None:
    code = "import sys, enforcer.client; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    brought = set(done.stdout.split())
    assert not brought & {"redis", "hiredis", "aiokafka", "faust", "pydantic", "structlog", "aiohttp", "yaml", "starlette"}
    ours = subprocess.run(
        [sys.executable, "-c", "import sys, enforcer.client; print(*[n for n in sys.modules if n.startswith('enforcer.')])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {name for name in ours if not name.startswith("enforcer.client")} == {"enforcer.limits", "enforcer.limits.check"}
