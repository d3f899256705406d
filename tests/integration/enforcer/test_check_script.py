"""``check.lua`` and its specification take the same steps on a real Redis, and agree on every byte."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis

from enforcer.decisions.fallback import covers
from enforcer.limits.bucket import UNLOWERED, UNREGISTERED, Bucket, Generation, Status, Terms, take
from lua.scripts import CHECK
from tests.integration.enforcer.script_call import ScriptCheck, pack, write_value
from topics.events import AbuseState, Ban

START_US = 1_700_000_000_123_456
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US

TERMS = (
    Terms.of(5, 5, 60 * SECOND_US),
    Terms.of(5, 7, 60 * SECOND_US),
    Terms.of(1, 1, 1),
    Terms.of(3, 1, SECOND_US),
    Terms.of(50, 50, SECOND_US),
    Terms.of(2, 3, 7),
    Terms.of(1_000_000, 1, DAY_US // 10),  # ticks of a millisecond
    Terms.of(9_007_199, 1000, SECOND_US),  # as many units as fit
)
GENERATIONS = (
    UNREGISTERED,
    Generation(7, START_US),
    Generation(8, START_US + 10 * SECOND_US),
    Generation(12_345, START_US + 40 * DAY_US),
)
USERS = ("ann", "bob")
LIMITS = ("wide", "narrow", "trial")


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        client.script_load(CHECK.source)
        client.flushdb()
        yield client


def run(client: Redis, checks: Sequence[ScriptCheck], now_us: int | None = START_US, deadline_us: int = 0) -> list[Any]:
    keys, argv = pack(checks, now_us, deadline_us)
    reply: list[Any] = client.evalsha(CHECK.sha, len(keys), *keys, *argv)
    return reply


def name(user: str, limit: str) -> str:
    return f"rate_limit:{{user={user}}}:test:{limit}"


def name_abuse(user: str) -> str:
    return f"abuse:{{user={user}}}"


class CheckStep(NamedTuple):
    user: str
    limits: tuple[tuple[str, Terms, bool], ...]
    costs: tuple[int, int, int] | int
    """Of up to three limits, or the same for all."""
    factor: int
    action: str = "login"


class Step(NamedTuple):
    later_us: int
    tightened: tuple[str, int, int] | None
    """User, factor, for how many milliseconds from now."""
    checks: list[CheckStep]
    banned: tuple[str, tuple[str, ...], int] | None = None
    """User, scope, for how many milliseconds from now."""


factors = st.one_of(st.just(UNLOWERED), st.sampled_from([1, 2, 333, 500, 999]), st.integers(1, UNLOWERED))
costs = st.one_of(
    st.integers(0, 6), st.sampled_from([100, 1_000_000, 2**32 - 1, 2**53]), st.integers(-6, -1), st.just(-(2**53))
)
terms_of_generations = st.builds(Terms.under, st.sampled_from(TERMS), st.sampled_from(GENERATIONS))
check_steps = st.builds(
    CheckStep,
    st.sampled_from(USERS),
    st.lists(
        st.tuples(st.sampled_from(LIMITS), st.one_of(st.just(TERMS[0]), terms_of_generations), st.booleans()),
        max_size=3,
        unique_by=lambda limit: limit[0],
    ).map(tuple),
    st.one_of(costs, st.tuples(costs, costs, costs)),
    st.one_of(factors, factors.map(lambda factor: -factor)),
    st.sampled_from(["login", "search"]),
)
steps = st.lists(
    st.builds(
        Step,
        st.one_of(
            st.just(0),
            st.integers(1, 3_000),
            st.integers(0, 30 * SECOND_US),
            st.integers(0, 400 * DAY_US),
            st.integers(-90 * SECOND_US, -1),
        ),
        st.none() | st.tuples(st.sampled_from(USERS), factors, st.integers(-5, 60_000)),
        st.lists(check_steps, min_size=1, max_size=4),
        st.none()
        | st.tuples(
            st.sampled_from(USERS), st.sampled_from([("login",), ("s*", "x"), ("*",), ("other",)]), st.integers(-5, 60_000)
        ),
    ),
    min_size=1,
    max_size=12,
)


def hold(client: Redis, held: dict[str, AbuseState], step: Step, now_ms: int) -> None:
    """Put what a step holds against users into Redis, and into what is expected to be there."""
    if step.tightened is not None:
        user, factor, for_ms = step.tightened
        held[user] = held[user].model_copy(update={"factor": factor, "factor_until_ms": now_ms + for_ms})
        client.set(name_abuse(user), held[user].model_dump_json())
    if step.banned is not None:
        user, scope, for_ms = step.banned
        held[user] = held[user].model_copy(update={"bans": (*held[user].bans, ban(now_ms + for_ms, scope))})
        client.set(name_abuse(user), held[user].model_dump_json())


def find_ban(state: AbuseState, action: str, now_ms: int) -> list[Any] | None:
    """The script's result for a subject that is banned."""
    bans = [one for one in state.bans if one.until_ms > now_ms and covers(one.scope, action)]
    if not bans:
        return None
    longest = max(bans, key=lambda one: one.until_ms)  # of equals the first
    return [Status.BAN, longest.until_ms, longest.level, longest.rule, longest.verdict_id, 1, ",".join(longest.scope)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
@example(
    steps=[
        Step(0, None, [CheckStep("ann", (("wide", TERMS[0], False),), 5, 1)]),
        Step(SECOND_US, None, [CheckStep("ann", (("wide", TERMS[0], False),), 1, 333)]),
        Step(SECOND_US, None, [CheckStep("ann", (("wide", TERMS[0], False),), 1, UNLOWERED)] * 2),
    ]
)
@example(steps=[Step(0, None, [CheckStep("ann", (("wide", TERMS[6], False),), 4, 91)])])
@example(
    steps=[
        Step(0, None, [CheckStep("ann", (("wide", TERMS[0], False), ("narrow", TERMS[3], True)), (5, 2, 0), UNLOWERED)]),
        Step(0, None, [CheckStep("ann", (("wide", TERMS[0], False), ("narrow", TERMS[3], True)), (-2, 1, 0), 500)] * 2),
        Step(0, None, [CheckStep("ann", (("wide", TERMS[0], False),), -9, UNLOWERED)]),
    ]
)
def test_script_and_specification_agree_on_every_step(client: Redis, steps: list[Step]) -> None:
    client.flushdb()
    model: dict[str, Bucket] = {}
    held = dict.fromkeys(USERS, AbuseState(rev=1))
    now_us = START_US
    for step in steps:
        now_us += step.later_us
        # The server expires by its own clock, the steps run in another: what is over is removed here, the rest is kept below.
        for key in [key for key, bucket in model.items() if bucket.expires_us <= now_us]:
            del model[key]
            client.delete(key)
        now_ms = now_us // 1000
        hold(client, held, step, now_ms)
        asked, expected, written = [], [], {}
        for check in step.checks:
            keys = tuple(name(check.user, limit) for limit, _, _ in check.limits)
            terms = tuple(terms for _, terms, _ in check.limits)
            shadows = tuple(is_shadow for _, _, is_shadow in check.limits)
            costs = check.costs if isinstance(check.costs, int) else check.costs[: len(keys)]
            costs = costs or 1  # without a limit there is nothing to differ
            asked.append(ScriptCheck(keys, terms, costs, check.factor, shadows, (name_abuse(check.user),), check.action))
            state = held[check.user]
            given = [costs] if isinstance(costs, int) else costs
            is_refund = min(given) < 0 and max(given) <= 0
            if not is_refund and (banned := find_ban(state, check.action, now_ms)):
                expected.append(banned)
                continue
            is_tightened = state.factor_until_ms > now_ms
            factor = max(1, abs(check.factor) * state.factor // UNLOWERED) if is_tightened else abs(check.factor)
            before = [model.get(key) for key in keys]
            after, taken = take(before, terms, shadows, asked[-1].costs, factor, now_us, is_open=check.factor < 0)
            for key, old, new in zip(keys, before, after, strict=True):
                if new is not None and new is not old:
                    model[key] = new
                    written[key] = new
            expected.append([taken.status, factor, taken.refused, taken.refused_at_1, *taken.levels])

        script_keys, argv = pack(asked, now_us)
        watched = [name(user, limit) for user in USERS for limit in LIMITS]
        with client.pipeline(transaction=True) as pipeline:  # within a transaction the server's clock stands still
            pipeline.evalsha(CHECK.sha, len(script_keys), *script_keys, *argv)
            for key in watched:
                pipeline.get(key).pttl(key).persist(key)  # type: ignore[union-attr]
            reply, *stored = pipeline.execute()

        assert reply == [now_us, *expected]
        for key, raw, ttl_ms in zip(watched, stored[0::3], stored[1::3], strict=True):
            assert raw == (write_value(model[key]) if key in model else None)
            if key in written:
                assert ttl_ms == (written[key].expires_us - now_us) // 1000


def test_server_forgets_a_bucket_when_it_is_full(client: Redis) -> None:
    terms = Terms.of(2, 1, 30_000)
    check = ScriptCheck((name("ann", "wide"),), (terms,))
    run(client, [check], None)
    assert 0 < client.pttl(name("ann", "wide")) <= 30
    run(client, [check], None)
    assert 30 < client.pttl(name("ann", "wide")) <= 60


def test_clock_is_the_servers_own_when_none_is_given(client: Redis) -> None:
    before_s, before_us = client.time()
    now_us, result = run(client, [ScriptCheck((name("ann", "wide"),), (TERMS[0],))], None)
    after_s, after_us = client.time()
    assert before_s * SECOND_US + before_us <= now_us <= after_s * SECOND_US + after_us
    assert result[0] == Status.ALLOW


def test_deadline_that_has_passed_takes_nothing(client: Redis) -> None:
    checks = [ScriptCheck((name(user, "wide"),), (TERMS[0],)) for user in USERS]
    assert run(client, checks, START_US, START_US - 1) == [START_US]
    assert client.keys() == []
    assert len(run(client, checks, START_US, START_US)) == 3


def test_deadline_is_judged_by_the_servers_clock(client: Redis) -> None:
    seconds, micros = client.time()
    assert len(run(client, [ScriptCheck((name("ann", "wide"),), (TERMS[0],))], None, seconds * SECOND_US + micros)) == 1
    assert client.keys() == []


def test_poisoned_key_fails_its_check_alone_and_writes_nothing(client: Redis) -> None:
    client.lpush(name("bob", "narrow"), "x")
    client.set(name_abuse("cid"), "{not json")
    client.set(name_abuse("dan"), json.dumps({"bans": 5}))

    def check(user: str) -> ScriptCheck:
        keys = (name(user, "wide"), name(user, "narrow"))
        return ScriptCheck(keys, (TERMS[0], TERMS[3]), abuse_keys=(name_abuse(user),))

    _, *results = run(client, [check(user) for user in ("ann", "bob", "cid", "dan", "ann")])
    assert [result[0] for result in results] == [Status.ALLOW, Status.FAILED, Status.FAILED, Status.FAILED, Status.ALLOW]
    assert "WRONGTYPE" in results[1][1]
    assert all(isinstance(result[1], str) and result[1] for result in results[1:4])
    assert results[4][4:] == [3 * TERMS[0].period_ticks, TERMS[3].period_ticks]
    assert sorted(set(client.scan_iter("rate_limit:*")) - {name("ann", "wide"), name("ann", "narrow")}) == [
        name("bob", "narrow")
    ]


def test_bucket_whose_value_is_no_bucket_counts_as_new(client: Redis) -> None:
    for value in (
        "",
        "hello",
        "1 2",
        "-5 1 abc",
        "1 1 abc",
        "1 1 1:5/0s",
        "1 1 1:0/1s",
        "1 1 1:5/1y",
        "1 1 1:9007199254740992/1d",
    ):
        client.set(name("ann", "wide"), value)
        _, result = run(client, [ScriptCheck((name("ann", "wide"),), (TERMS[0],))])
        assert result == [Status.ALLOW, UNLOWERED, 0, 0, 4 * TERMS[0].period_ticks]


def ban(until_ms: int, scope: tuple[str, ...] = ("login",), verdict_id: str = "v1", level: int = 1) -> Ban:
    return Ban(until_ms=until_ms, level=level, rule="brute_force", verdict_id=verdict_id, scope=scope)


def impose(client: Redis, user: str, *bans: Ban, **changes: int | str) -> None:
    client.set(name_abuse(user), AbuseState(rev=1, bans=bans, **changes).model_dump_json())


NOW_MS = START_US // 1000


def ask(client: Redis, *users: str, action: str = "login") -> list[Any]:
    check = ScriptCheck(
        (name(users[0], "wide"),), (TERMS[0],), abuse_keys=tuple(name_abuse(user) for user in users), action=action
    )
    (result,) = run(client, [check])[1:]
    return list(result)


def test_longest_ban_wins_over_all_bans_of_all_subjects(client: Redis) -> None:
    impose(client, "ann", ban(NOW_MS + 10, verdict_id="short"), ban(NOW_MS + 20, verdict_id="middle"))
    impose(client, "office", ban(NOW_MS + 30, ("log*", "search"), "long", 3), ban(NOW_MS + 90, ("search",), "elsewhere"))
    assert ask(client, "ann", "office") == [Status.BAN, NOW_MS + 30, 3, "brute_force", "long", 2, "log*,search"]
    assert ask(client, "ann") == [Status.BAN, NOW_MS + 20, 1, "brute_force", "middle", 1, "login"]


def test_banned_check_changes_no_bucket(client: Redis) -> None:
    impose(client, "ann", ban(NOW_MS + 10))
    ask(client, "ann")
    assert client.exists(name("ann", "wide")) == 0


def test_refund_passes_a_ban_and_a_check_that_also_takes_does_not(client: Redis) -> None:
    keys, terms = (name("ann", "wide"), name("ann", "narrow")), (TERMS[0], TERMS[3])
    run(client, [ScriptCheck(keys, terms, (4, 2))])
    impose(client, "ann", ban(NOW_MS + 10))

    def refund(*costs: int) -> list[Any]:
        (result,) = run(client, [ScriptCheck(keys, terms, costs, abuse_keys=(name_abuse("ann"),))])[1:]
        return list(result)

    assert refund(-3, 1)[0] == Status.BAN
    assert refund(0, 0)[0] == Status.BAN
    assert refund(-3, 0) == [Status.ALLOW, UNLOWERED, 0, 0, 4 * TERMS[0].period_ticks, TERMS[3].period_ticks]
    (result,) = run(client, [ScriptCheck((), (), -1, abuse_keys=(name_abuse("ann"),))])[1:]
    assert result[0] == Status.ALLOW


def test_refund_of_a_full_bucket_writes_nothing(client: Redis) -> None:
    _, result = run(client, [ScriptCheck((name("ann", "wide"),), (TERMS[0],), -3)])
    assert result[4:] == [TERMS[0].capacity_units]
    assert client.keys() == []


def test_ban_that_has_ended_is_ignored(client: Redis) -> None:
    impose(client, "ann", ban(NOW_MS))
    assert ask(client, "ann")[0] == Status.ALLOW
    impose(client, "ann", ban(NOW_MS + 1))
    assert ask(client, "ann")[0] == Status.BAN


def test_ban_covers_the_actions_of_its_scope_alone(client: Redis) -> None:
    impose(client, "ann", ban(NOW_MS + 10, ("login", "api/*/write")))
    found = {action: ask(client, "ann", action=action)[0] for action in ("login", "logins", "api/v1/write", "api/v1/read")}
    assert found == {
        "login": Status.BAN,
        "logins": Status.ALLOW,
        "api/v1/write": Status.BAN,
        "api/v1/read": Status.ALLOW,
    }


texts = st.text("ab.-%[]()+?^$/*", min_size=1, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=60))
def test_script_and_enforcer_agree_on_what_a_scope_covers(client: Redis, pairs: list[tuple[str, str]]) -> None:
    checks = []
    for number, (glob, action) in enumerate(pairs):
        impose(client, f"u{number}", ban(NOW_MS + 10, (glob,)))
        checks.append(ScriptCheck((), (), abuse_keys=(name_abuse(f"u{number}"),), action=action))
    _, *results = run(client, checks)
    assert [result[0] == Status.BAN for result in results] == [covers((glob,), action) for glob, action in pairs]


def test_warning_is_told_with_its_subject_until_it_ends(client: Redis) -> None:
    impose(client, "office", warn_until_ms=NOW_MS + 1, warn_rule="brute_force", warn_verdict="v9")
    assert ask(client, "ann", "office")[5:] == [NOW_MS + 1, "brute_force", "v9", 2]
    impose(client, "office", warn_until_ms=NOW_MS, warn_rule="brute_force", warn_verdict="v9")
    assert ask(client, "ann", "office")[5:] == []


def test_factors_of_all_subjects_multiply_and_never_reach_zero(client: Redis) -> None:
    impose(client, "ann", factor=500, factor_until_ms=NOW_MS + 1)
    impose(client, "office", factor=300, factor_until_ms=NOW_MS + 1)
    assert ask(client, "ann", "office")[1] == 150
    impose(client, "office", factor=0, factor_until_ms=NOW_MS + 1)
    assert ask(client, "ann", "office")[1] == 1
    impose(client, "office", factor=0, factor_until_ms=NOW_MS)
    assert ask(client, "ann", "office")[1] == 500


def test_open_action_refuses_and_still_counts_what_its_limits_would_have_refused(client: Redis) -> None:
    check = ScriptCheck((name("ann", "open"),), (Terms.of(3, 3, 60_000_000),), factor=-500)
    statuses = [run(client, [check])[1][0] for _ in range(5)]
    assert statuses == [Status.OPEN] * 3 + [Status.LIMIT] * 2


def test_state_with_empty_lists_as_the_other_script_writes_it_is_read(client: Redis) -> None:
    client.set(name_abuse("ann"), '{"v":1,"rev":2,"bans":[]}')
    assert ask(client, "ann")[0] == Status.ALLOW
    client.set(name_abuse("ann"), '{"v":1,"rev":2,"bans":{}}')
    assert ask(client, "ann")[0] == Status.ALLOW


def test_checks_of_one_call_share_buckets_and_each_is_all_or_nothing(client: Redis) -> None:
    def check(user: str) -> ScriptCheck:
        return ScriptCheck((name("all", "wide"), name(user, "narrow")), (TERMS[0], TERMS[3]))

    _, *results = run(client, [check("ann")] * 4 + [check("bob")] * 3)
    assert [result[0] for result in results] == [Status.ALLOW] * 3 + [Status.LIMIT] + [Status.ALLOW] * 2 + [Status.LIMIT]
    assert [result[2] for result in results] == [0, 0, 0, 0b10, 0, 0, 0b01]
    assert str(client.get(name("bob", "narrow"))).split()[0] == str(TERMS[3].period_ticks)


def test_every_one_of_many_limits_is_told_to_have_refused(client: Redis) -> None:
    count = 60
    check = ScriptCheck(tuple(name(f"u{number}", "wide") for number in range(count)), (TERMS[0],) * count, cost=6)
    _, result = run(client, [check])
    assert result[2:4] == ["1" * count] * 2
