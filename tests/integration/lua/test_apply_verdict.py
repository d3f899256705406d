"""The script and its specification, on the same random offences, on a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from detector.abuse_store import name_arguments
from detector.ladder import Finding, Judgement, Offence, judge
from detector.rules import Ladder
from enforcer.admin.ruling import Ruling, find_expiry_ms, rule
from enforcer.admin.subject_store import name_ruling_arguments
from lua.keys import CHANGES_CHANNEL, name_abuse, name_verdict
from lua.scripts import APPLY_RULING, APPLY_VERDICT
from topics.events import AbuseState

SUBJECT = "user=mallory"
HOUR_MS = 3_600_000
KEEP_MS = 72 * HOUR_MS
LADDER = Ladder.model_validate(
    {
        "half_life": "1h",
        "rungs": [
            {"name": "warn", "penalty": "warn", "duration": "10m"},
            {"name": "tighten", "penalty": "tighten", "factor": 0.5, "duration": "10m"},
            {"name": "squeeze", "penalty": "tighten", "factor": 0.125, "duration": "5m"},
            {"name": "ban_1m", "penalty": "ban", "duration": "1m"},
            {"name": "ban_10m", "penalty": "ban", "duration": "10m"},
            {"name": "ban_1h", "penalty": "ban", "duration": "1h"},
        ],
    }
)
LADDERS = (
    LADDER,
    Ladder.model_validate(
        {
            "half_life": "90s",
            "jitter": 0.333,
            "rungs": [
                {"name": "warn", "penalty": "warn", "duration": "7s"},
                {"name": "ban", "penalty": "ban", "duration": "61001ms"},
            ],
        }
    ),
    Ladder.model_validate(
        {
            "half_life": "24h",
            "jitter": 1,
            "rungs": [
                {"name": "tighten", "penalty": "tighten", "factor": 0.3, "duration": "1h"},
                {"name": "ban_short", "penalty": "ban", "duration": "100ms"},
                {"name": "ban_long", "penalty": "ban", "duration": "24h"},
                {"name": "warn", "penalty": "warn", "duration": "1m"},
            ],
        }
    ),
)
"""Of several rules of one subject: other half-lives, jitter up to all, fewer rungs, a mild one above a harsh one."""
BASE_MS = int(time.time() * 1000)
SCOPES = [("login",), ("login", "search"), ("*",), ("api/*",)]

Step = tuple[int, int, int, tuple[str, ...], bool, int]
RulingStep = tuple[str, int, tuple[str, ...], int]
offence_steps = st.tuples(
    st.integers(0, 12),  # which verdict: some come twice
    st.one_of(st.integers(-5_000, 300_000), st.integers(-HOUR_MS, 12 * HOUR_MS)),  # event time after the one before
    st.integers(1, len(LADDER.rungs)),
    st.sampled_from(SCOPES),
    st.booleans(),
    st.one_of(st.integers(0, 100_000), st.integers(0, KEEP_MS + 1_000)),  # how late it is judged
)
ruling_steps = st.tuples(
    st.sampled_from(["ban", "lift", "forgive"]),
    st.integers(0, 300_000),  # after the step before
    st.sampled_from(SCOPES),
    st.integers(1, 2 * HOUR_MS),  # duration
)
steps = st.lists(offence_steps, min_size=1, max_size=14)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def evaluate(client: Redis, offence: Offence, now_ms: int | None, ladder: Ladder = LADDER) -> tuple[Finding, str, int]:
    keys, arguments = name_arguments(offence, ladder, keep_ms=KEEP_MS, now_ms=now_ms)
    finding, state, is_repeat = client.eval(APPLY_VERDICT.source, len(keys), *keys, *arguments)
    return msgspec.json.decode(finding, type=Finding), state, is_repeat


def make_offence(number: int = 0, *, at_ms: int = BASE_MS, start: int = 4, **changes: object) -> Offence:
    values = {"scope": ("login",), "is_shadow": False} | changes
    return Offence(f"{number:032x}", SUBJECT, "brute_force", at_ms=at_ms, start=start, **values)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_script_and_specification_agree_on_every_byte(client: Redis, steps: list[Step]) -> None:
    client.delete(name_abuse(SUBJECT), *(name_verdict(SUBJECT, f"{number:032x}") for number in range(13)))
    state: AbuseState | None = None
    stored: dict[str, Finding] = {}
    expires_at_ms = -2
    at_ms = BASE_MS
    for number, later_ms, start, scope, is_shadow, lateness_ms in steps:
        at_ms += later_ms
        offence = make_offence(number, at_ms=at_ms, start=start, scope=scope, is_shadow=is_shadow)
        finding, text, is_repeat = evaluate(client, offence, at_ms + lateness_ms)
        if offence.verdict_id in stored:
            assert (finding, is_repeat) == (stored[offence.verdict_id], 1)
        else:
            expected: Judgement = judge(state, offence, LADDER, now_ms=at_ms + lateness_ms, keep_ms=KEEP_MS)
            assert (finding, is_repeat) == (expected.finding, 0)
            state = expected.state
            expires_at_ms = expected.expires_at_ms or expires_at_ms
            if finding.result != "stale":
                stored[offence.verdict_id] = finding
                assert client.pexpiretime(name_verdict(SUBJECT, offence.verdict_id)) == at_ms + KEEP_MS
        assert text == (state.model_dump_json() if state else "")
        assert (client.get(name_abuse(SUBJECT)) or "") == text
        assert client.pexpiretime(name_abuse(SUBJECT)) == expires_at_ms


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(st.one_of(st.tuples(st.integers(0, 2), offence_steps, st.integers(0, 65_535)), ruling_steps), max_size=14)
)
def test_they_agree_on_several_ladders_with_jitter_while_people_rule(
    client: Redis, history: list[tuple[int, Step, int] | RulingStep]
) -> None:
    client.delete(name_abuse(SUBJECT))
    for key in client.scan_iter(match=name_verdict(SUBJECT, "*")):
        client.delete(key)
    state: AbuseState | None = None
    stored: dict[str, Finding] = {}
    chances: dict[int, int] = {}
    expires_at_ms = -2
    at_ms = BASE_MS
    for place, step in enumerate(history):
        if len(step) == 4:
            penalty, later_ms, scope, duration_ms = step
            at_ms += later_ms
            ruling = Ruling(f"a{place:031x}", "d", SUBJECT, penalty, "alice", "because", scope, duration_ms)  # type: ignore[arg-type]
            keys, arguments = name_ruling_arguments(ruling, now_ms=at_ms)
            _, text, _ = client.eval(APPLY_RULING.source, len(keys), *keys, *arguments)
            ruled, state = rule(state, ruling, now_ms=at_ms)
            expires_at_ms = find_expiry_ms(expires_at_ms, state, ruled)
        else:
            which, (number, later_ms, start, scope, is_shadow, lateness_ms), chance = step
            at_ms += later_ms
            ladder = LADDERS[which]
            offence = Offence(
                verdict_id=f"{chances.setdefault(number, chance):04x}{number:028x}",
                subject=SUBJECT,
                rule=f"rule_{which}",
                scope=scope,
                at_ms=at_ms,
                start=min(start, len(ladder.rungs)),
                is_shadow=is_shadow,
            )
            finding, text, is_repeat = evaluate(client, offence, at_ms + lateness_ms, ladder)
            if offence.verdict_id in stored:
                assert (finding, is_repeat) == (stored[offence.verdict_id], 1)
            else:
                expected = judge(state, offence, ladder, now_ms=at_ms + lateness_ms, keep_ms=KEEP_MS)
                assert (finding, is_repeat) == (expected.finding, 0)
                state = expected.state
                expires_at_ms = expected.expires_at_ms or expires_at_ms
                if finding.result != "stale":
                    stored[offence.verdict_id] = finding
        assert text == (state.model_dump_json() if state else "")
        assert (client.get(name_abuse(SUBJECT)) or "") == text
        assert client.pexpiretime(name_abuse(SUBJECT)) == expires_at_ms


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, again=st.lists(st.integers(0, 13), max_size=5))
def test_late_replay_with_doubles_ends_in_the_same_bytes_as_live(client: Redis, steps: list[Step], again: list[int]) -> None:
    offences, at_ms = [], BASE_MS
    for number, (_, later_ms, start, scope, _, _) in enumerate(steps):
        at_ms += abs(later_ms) // 4
        offences.append(make_offence(number, at_ms=at_ms, start=start, scope=scope))

    def end_in(clock: int | None, history: list[Offence]) -> tuple[str, int]:
        client.delete(name_abuse(SUBJECT), *(name_verdict(SUBJECT, f"{number:032x}") for number in range(14)))
        for offence in history:
            evaluate(client, offence, clock if clock is not None else offence.at_ms)
        state = client.get(name_abuse(SUBJECT))
        return str(state), client.pexpiretime(name_abuse(SUBJECT))

    live = end_in(None, offences)
    cut = min([*again, len(offences)])
    doubled = offences[:cut] + offences[max(0, cut - 3) :]
    assert end_in(BASE_MS + KEEP_MS - 1, doubled) == live


def test_change_is_published_with_the_state(client: Redis) -> None:
    client.delete(name_abuse(SUBJECT), name_verdict(SUBJECT, f"{0:032x}"))
    with client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(CHANGES_CHANNEL)
        listener.get_message(timeout=5)
        _, state, _ = evaluate(client, make_offence(), BASE_MS)
        message = listener.get_message(timeout=5)
        assert message is not None
        assert message["data"] == f'{{"subject":"{SUBJECT}","state":{state}}}'
        evaluate(client, make_offence(), BASE_MS)
        assert listener.get_message(timeout=0.05) is None


def test_clock_is_redis_s_own_in_production(client: Redis) -> None:
    client.delete(name_abuse(SUBJECT), name_verdict(SUBJECT, f"{0:032x}"))
    seconds, micros = client.time()
    before_ms = seconds * 1000 + micros // 1000
    finding, _, _ = evaluate(client, make_offence(at_ms=before_ms), None)
    assert finding.result == "applied"
    assert before_ms <= finding.applied_at_ms <= before_ms + 60_000
