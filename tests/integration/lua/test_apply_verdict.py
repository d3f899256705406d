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
from lua.keys import CHANGES_CHANNEL, name_abuse, name_verdict
from lua.scripts import APPLY_VERDICT
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
BASE_MS = int(time.time() * 1000)

Step = tuple[int, int, int, tuple[str, ...], bool, int]
steps = st.lists(
    st.tuples(
        st.integers(0, 12),  # which verdict: some come twice
        st.one_of(st.integers(-5_000, 300_000), st.integers(-HOUR_MS, 12 * HOUR_MS)),  # event time after the one before
        st.integers(1, len(LADDER.rungs)),
        st.sampled_from([("login",), ("login", "search"), ("*",), ("api/*",)]),
        st.booleans(),
        st.one_of(st.integers(0, 100_000), st.integers(0, KEEP_MS + 1_000)),  # how late it is judged
    ),
    min_size=1,
    max_size=14,
)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def evaluate(client: Redis, offence: Offence, now_ms: int | None) -> tuple[Finding, str, int]:
    keys, arguments = name_arguments(offence, LADDER, keep_ms=KEEP_MS, now_ms=now_ms)
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
