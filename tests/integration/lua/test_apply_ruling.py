"""The script of rulings and its specification, on the same random rulings and offences, on a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from detector.abuse_store import name_arguments
from detector.ladder import Finding as OffenceFinding
from detector.ladder import Offence, judge
from detector.rules import Ladder
from enforcer.admin.ruling import KEEP_MS, Finding, Ruling, find_expiry_ms, rule
from enforcer.admin.subject_store import name_ruling_arguments
from lua.keys import CHANGES_CHANNEL, name_abuse, name_verdict
from lua.scripts import APPLY_RULING, APPLY_VERDICT
from topics.events import AbuseState

SUBJECT = "user=mallory"
HOUR_MS = 3_600_000
LADDER = Ladder.model_validate(
    {
        "half_life": "1h",
        "rungs": [
            {"name": "warn", "penalty": "warn", "duration": "10m"},
            {"name": "tighten", "penalty": "tighten", "factor": 0.5, "duration": "10m"},
            {"name": "ban_1m", "penalty": "ban", "duration": "1m"},
            {"name": "ban_1h", "penalty": "ban", "duration": "1h"},
        ],
    }
)
BASE_MS = int(time.time() * 1000)
SCOPES = [("login",), ("login", "search"), ("*",), ("api/*",)]

rulings = st.tuples(
    st.sampled_from(["ban", "lift", "forgive"]),
    st.integers(0, 9),  # which ruling: some come twice
    st.one_of(st.integers(0, 120_000), st.integers(0, 3 * HOUR_MS)),  # after the step before
    st.sampled_from(SCOPES),
    st.integers(1, 2 * HOUR_MS),  # duration
)
offences = st.tuples(
    st.just("offence"),
    st.integers(0, 9),
    st.integers(0, 300_000),
    st.sampled_from(SCOPES),
    st.one_of(st.integers(0, 60_000), st.integers(0, HOUR_MS)),  # how late it is judged
)

Step = tuple[str, int, int, tuple[str, ...], int]


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def make_ruling(number: int = 0, penalty: str = "ban", scope: tuple[str, ...] = ("*",), duration_ms: int = 60_000) -> Ruling:
    name, digest = f"a{number:031x}", f"d{number:031x}"
    return Ruling(name, digest, SUBJECT, penalty, "alice", "because", scope, duration_ms)  # type: ignore[arg-type]


def evaluate(client: Redis, ruling: Ruling, now_ms: int | None) -> tuple[Finding, str, int]:
    keys, arguments = name_ruling_arguments(ruling, now_ms=now_ms)
    finding, state, is_repeat = client.eval(APPLY_RULING.source, len(keys), *keys, *arguments)
    return msgspec.json.decode(finding, type=Finding), state, is_repeat


def offend(client: Redis, offence: Offence, now_ms: int) -> tuple[OffenceFinding, str]:
    keys, arguments = name_arguments(offence, LADDER, keep_ms=KEEP_MS, now_ms=now_ms)
    finding, state, _ = client.eval(APPLY_VERDICT.source, len(keys), *keys, *arguments)
    return msgspec.json.decode(finding, type=OffenceFinding), state


def forget_all(client: Redis) -> None:
    names = [f"{kind}{number:031x}" for kind in "0a" for number in range(10)]
    client.delete(name_abuse(SUBJECT), *(name_verdict(SUBJECT, name) for name in names))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(rulings, offences), min_size=1, max_size=14))
def test_script_and_specification_agree_on_every_byte(client: Redis, steps: list[Step]) -> None:
    forget_all(client)
    state: AbuseState | None = None
    stored: dict[int, Finding] = {}
    judged: set[int] = set()
    expires_at_ms, now_ms = -2, BASE_MS
    for penalty, number, later_ms, scope, amount_ms in steps:
        now_ms += later_ms
        if penalty == "offence":
            offence = Offence(f"{number:032x}", SUBJECT, "brute_force", scope, now_ms - amount_ms, 1, is_shadow=False)
            _, text = offend(client, offence, now_ms)
            if number not in judged:
                judged.add(number)
                judgement = judge(state, offence, LADDER, now_ms=now_ms, keep_ms=KEEP_MS)
                state, expires_at_ms = judgement.state, judgement.expires_at_ms or expires_at_ms
        else:
            ruling = make_ruling(number, penalty, scope, amount_ms)
            finding, text, is_repeat = evaluate(client, ruling, now_ms)
            if number in stored:
                assert (finding, is_repeat) == (stored[number], 1)
            else:
                expected, state = rule(state, ruling, now_ms=now_ms)
                assert (finding, is_repeat) == (expected, 0)
                expires_at_ms = find_expiry_ms(expires_at_ms, state, finding)
                stored[number] = finding
                assert client.pexpiretime(name_verdict(SUBJECT, ruling.verdict_id)) == now_ms + KEEP_MS
        assert text == (state.model_dump_json() if state else "")
        assert (client.get(name_abuse(SUBJECT)) or "") == text
        assert client.pexpiretime(name_abuse(SUBJECT)) == expires_at_ms


def test_verdict_about_an_offence_of_before_the_ruling_changes_nothing(client: Redis) -> None:
    forget_all(client)
    _, state, _ = evaluate(client, make_ruling(penalty="lift"), BASE_MS)
    earlier = Offence(f"{0:032x}", SUBJECT, "brute_force", ("login",), BASE_MS - 1, 3, is_shadow=False)
    finding, after = offend(client, earlier, BASE_MS + 1_000)
    assert (finding.result, after) == ("overruled", state)
    later = Offence(f"{1:032x}", SUBJECT, "brute_force", ("login",), BASE_MS, 3, is_shadow=False)
    finding, after = offend(client, later, BASE_MS + 1_000)
    assert (finding.result, finding.penalty) == ("applied", "ban")
    assert AbuseState.model_validate_json(after).human_at_ms == BASE_MS


def test_ruling_is_published_once_with_the_state(client: Redis) -> None:
    forget_all(client)
    with client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(CHANGES_CHANNEL)
        listener.get_message(timeout=5)
        _, state, _ = evaluate(client, make_ruling(), BASE_MS)
        message = listener.get_message(timeout=5)
        assert message is not None
        assert message["data"] == f'{{"subject":"{SUBJECT}","state":{state}}}'
        evaluate(client, make_ruling(), BASE_MS + 1)
        assert listener.get_message(timeout=0.05) is None


def test_state_that_was_written_without_a_half_life_is_still_read(client: Redis) -> None:
    forget_all(client)
    old = AbuseState(rev=3, score=1500, score_at_ms=BASE_MS).model_dump_json(exclude={"half_life_ms"})
    client.set(name_abuse(SUBJECT), old)
    finding, state, _ = evaluate(client, make_ruling(penalty="lift"), BASE_MS)
    assert (finding.rev, finding.score, finding.half_life_ms) == (4, 1500, 0)
    assert AbuseState.model_validate_json(state).score == 1500
    forget_all(client)


def test_clock_is_redis_s_own_in_production(client: Redis) -> None:
    forget_all(client)
    seconds, micros = client.time()
    before_ms = seconds * 1000 + micros // 1000
    finding, _, _ = evaluate(client, make_ruling(), None)
    assert before_ms <= finding.at_ms <= before_ms + 60_000
