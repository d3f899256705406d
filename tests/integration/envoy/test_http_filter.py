"""The real Envoy's HTTP rate limit filter, as the example configures it, asks a real enforcer with a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis import Redis

from devstack.stack import RunningStack, StackSpec, start
from lua.keys import name_abuse
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, poll, run_enforcer
from tests.integration.envoy.envoy_under_test import EXAMPLE, Envoy, run_envoy
from topics.events import AbuseState, Ban

OK, REFUSED, FAILED = 200, 429, 500
MINUTE_S = 60


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with start(StackSpec(parts=frozenset({"redis"}))) as running:
        yield running


@pytest.fixture(scope="module")
def enforcer(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    limits = (EXAMPLE / "limits.yaml").read_text()
    with run_enforcer(stack.redis_url, NOWHERE, tmp_path_factory.mktemp("enforcer"), policies=limits) as one:
        one.wait_for_redis()
        yield one


@pytest.fixture(scope="module")
def envoy(enforcer: EnforcerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    with run_envoy(enforcer.address, tmp_path_factory.mktemp("envoy")) as one:
        # The first call opens the connection, which may take longer than Envoy waits.
        poll(lambda: one.get("/", x_user="warm").status == OK, "an answer through the enforcer")
        yield one


@pytest.fixture
def redis(stack: RunningStack) -> Iterator[Redis]:
    with Redis.from_url(stack.redis_url, decode_responses=True) as client:
        yield client


def test_user_is_refused_when_the_tokens_are_spent_and_others_are_not(envoy: Envoy) -> None:
    assert envoy.statuses("/", 6, x_user="ann") == [OK] * 5 + [REFUSED]
    assert envoy.statuses("/", 1, x_user="bob") == [OK]
    assert envoy.statuses("/", 8) == [OK] * 8, "no header, no descriptor"


def test_x_ratelimit_headers_tell_the_limit_and_what_is_left(envoy: Envoy) -> None:
    first, *_, last = [envoy.get("/", x_user="carol") for _ in range(6)]
    assert first.headers["x-ratelimit-limit"] == '5, 5;w=60;name="edge:user_id"'
    assert first.headers["x-ratelimit-remaining"] == "4"
    assert 0 < int(first.headers["x-ratelimit-reset"]) <= 12
    assert (last.status, last.headers["x-ratelimit-remaining"]) == (REFUSED, "0")
    assert 12 < int(last.headers["x-ratelimit-reset"]) <= MINUTE_S
    assert last.headers["x-ratchet-outcome"] == "deny"
    assert 0 < int(last.headers["retry-after"]) <= 12


def test_value_goes_before_any_value(envoy: Envoy) -> None:
    assert envoy.statuses("/", 20, x_user="operator") == [OK] * 20
    assert envoy.statuses("/", 2, x_user="unwelcome") == [REFUSED] * 2


def test_descriptor_weighs_what_the_request_says(envoy: Envoy) -> None:
    def weigh(weight: int) -> tuple[int, str]:
        answer = envoy.get("/download", x_user="ann", x_weight=str(weight))
        return answer.status, answer.headers["x-ratelimit-remaining"]

    assert weigh(70) == (OK, "30")
    assert weigh(31)[0] == REFUSED
    assert weigh(0) in {(OK, "30"), (OK, "31")}
    assert weigh(30)[0] == OK
    assert weigh(10**9)[0] == REFUSED


def test_tokens_come_back_when_the_answer_is_through(envoy: Envoy, redis: Redis) -> None:
    for _ in range(12):
        assert envoy.get("/refund", x_user="dan").status == OK
        # The bucket is forgotten a millisecond after it is full again.
        poll(lambda: not redis.keys("rate_limit:*dan*"), "the refund")


def test_request_brings_its_own_terms_for_a_bucket_of_its_own(envoy: Envoy) -> None:
    answers = [envoy.get("/override", x_user="eve") for _ in range(3)]
    assert [answer.status for answer in answers] == [OK, OK, REFUSED]
    assert answers[0].headers["x-ratelimit-limit"] == '2, 2;w=3600;name="edge:override-2-1hour"'
    assert envoy.statuses("/", 5, x_user="eve") == [OK] * 5


def test_limit_in_shadow_mode_refuses_nobody_and_is_told(envoy: Envoy) -> None:
    answers = [envoy.get("/trial", x_user="ann") for _ in range(4)]
    assert [answer.status for answer in answers] == [OK] * 4
    assert ["x-shadow" in answer.headers for answer in answers] == [False, False, True, True]
    assert answers[-1].headers["x-shadow"] == "true"


def test_descriptors_of_one_request_pass_together_or_take_nothing(envoy: Envoy) -> None:
    assert envoy.statuses("/plan", 4, x_plan="free", x_user="fay") == [OK] * 3 + [REFUSED]
    assert envoy.statuses("/", 3, x_user="fay") == [OK, OK, REFUSED], "the refusal took none of the user's tokens"


def test_limit_is_replaced_for_whoever_has_an_unlimited_one(envoy: Envoy) -> None:
    assert envoy.statuses("/plan", 5, x_plan="free", x_contract="7", x_user="gil") == [OK] * 5


def test_banned_user_is_refused_with_the_rule(envoy: Envoy, redis: Redis) -> None:
    until_ms = int(redis.time()[0]) * 1000 + 60_000
    ban = Ban(until_ms=until_ms, level=1, rule="brute_force", verdict_id="v1", scope=("edge",))
    redis.set(name_abuse("user=hal"), AbuseState(rev=1, bans=(ban,)).model_dump_json())
    answer = envoy.get("/", x_user="hal")
    assert (answer.status, answer.headers["x-ratchet-outcome"]) == (REFUSED, "ban")
    assert answer.headers["x-ratchet-rule"] == "brute_force"


@pytest.mark.parametrize("user", ["\xff\xfe", "z" * 5000, "\u00e9", "%00{}", " spaced "], ids=ascii)
def test_odd_header_is_limited_like_any_other(envoy: Envoy, user: str) -> None:
    assert envoy.statuses("/", 6, x_user=user) == [OK] * 5 + [REFUSED]


def test_stopped_redis_is_answered_for_within_what_envoy_waits(envoy: Envoy, stack: RunningStack) -> None:
    stack.pause("redis")
    try:
        poll(lambda: envoy.get("/", x_user="ida").headers.get("x-degraded") == "true", "a degraded answer")
        in_a_row = 0

        def answers_in_a_row() -> bool:
            nonlocal in_a_row
            answer = envoy.get("/", x_user=f"jo-{time.monotonic_ns()}")
            in_a_row = in_a_row + 1 if (answer.status, answer.headers.get("x-degraded")) == (OK, "true") else 0
            return in_a_row == 20

        poll(answers_in_a_row, "20 answers in a row without Redis, none later than Envoy waits")
        assert envoy.statuses("/", 6, x_user="kim")[-1] == REFUSED
    finally:
        stack.resume("redis")
    poll(lambda: "x-degraded" not in envoy.get("/", x_user="lou").headers, "an answer of Redis")


def test_without_any_enforcer_envoy_refuses(envoy: Envoy, enforcer: EnforcerProcess) -> None:
    enforcer.process.kill()
    enforcer.process.wait()
    assert envoy.get("/", x_user="max").status == FAILED
