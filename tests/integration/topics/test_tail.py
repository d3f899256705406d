from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable

from topics.events import AbuseState, DecisionEvent, HeartbeatEvent, SubjectEvent
from topics.filters import Filters
from topics.specs import DECISIONS, SUBJECTS, TopicSpec
from topics.tail import Output, tail

Make = Callable[[TopicSpec, int], Awaitable[TopicSpec]]
Write = Callable[..., Awaitable[None]]


def decision(seq: int, user: str) -> DecisionEvent:
    return DecisionEvent(
        source="a",
        seq=seq,
        decided_at_ms=1,
        user_id=user,
        action="login",
        policy="login",
        policy_version="1",
        outcome="deny",
        reason="limit",
    )


async def test_what_matches_is_shown_in_order_and_what_is_no_event_is_shown_as_such(
    kafka_bootstrap: str, make_topic: Make, write: Write
) -> None:
    spec = await make_topic(DECISIONS, 2)
    await write(spec.name, 0, decision(1, "alice"), HeartbeatEvent(source="a", seq=1, at_ms=1))
    await write(spec.name, 1, b"oops", decision(2, "bob"))
    await write(spec.name, 0, decision(3, "alice"))
    stream, told = io.StringIO(), list[str]()
    shown = await tail(
        kafka_bootstrap,
        "decisions",
        Filters(user="alice"),
        Output(stream, "json"),
        since_ms=None,
        follows=False,
        name=spec.name,
        tell=told.append,
    )
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event.get("seq", event["type"]) for event in events] == [1, "undecodable", 3]
    assert (shown, told) == (3, [])


async def test_it_waits_for_more_and_says_so_until_the_limit(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(DECISIONS, 2)
    stream, told = io.StringIO(), asyncio.Queue[str]()
    reading = asyncio.create_task(
        tail(
            kafka_bootstrap,
            "decisions",
            Filters(user="alice"),
            Output(stream, "lines"),
            since_ms=None,
            follows=True,
            limit=2,
            name=spec.name,
            tell=told.put_nowait,
        )
    )
    async with asyncio.timeout(30):
        assert await told.get() == "decisions holds nothing; waiting for more, Ctrl-C ends"
        await write(spec.name, 1, decision(1, "alice"), decision(2, "bob"), decision(3, "alice"), decision(4, "alice"))
        assert await reading == 2
    assert stream.getvalue().count("alice login") == 2


async def test_without_a_match_it_says_what_it_looked_for(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(DECISIONS, 1)
    await write(spec.name, 0, decision(1, "alice"))
    told: list[str] = []
    await tail(
        kafka_bootstrap,
        "decisions",
        Filters(user="bob", outcome="deny"),
        Output(io.StringIO(), "lines"),
        since_ms=None,
        follows=False,
        name=spec.name,
        tell=told.append,
    )
    assert told == ["decisions holds nothing that matches --user bob --outcome deny"]


async def test_a_forgotten_subject_is_told(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(SUBJECTS, 1)
    await write(spec.name, 0, SubjectEvent(subject="user=a", state=AbuseState(rev=1)), key=b"user=a")
    await write(spec.name, 0, None, key=b"user=a")
    stream = io.StringIO()
    output = Output(stream, "lines")
    await tail(
        kafka_bootstrap, "subjects", Filters(), output, since_ms=None, follows=False, name=spec.name, tell=lambda _text: None
    )
    assert stream.getvalue().splitlines()[1] == "user=a forgotten"
