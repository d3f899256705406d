from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass

from topics.events import DecisionEvent, HeartbeatEvent
from topics.tail import Output

DECISION = DecisionEvent(
    source="a", seq=1, decided_at_ms=1, user_id="a\nb", action="x", policy="p", policy_version="1", outcome="allow", reason="ok"
)


@dataclass(frozen=True)
class Consumed:
    value: bytes | None
    key: bytes | None = None
    topic: str = "decisions"
    partition: int = 0
    offset: int = 7
    timestamp: int = 1


def test_json_is_the_event_itself_one_per_line() -> None:
    stream = io.StringIO()
    output = Output(stream, "json")
    output.show_event(DECISION)
    output.show_undecodable("decisions", Consumed(b"oops"), "bad")
    output.show_tombstone(b"user=a")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert DecisionEvent.model_validate(first) == DECISION
    assert (second["type"], second["offset"], second["value_base64"]) == ("undecodable", 7, "b29wcw==")
    assert third == {"type": "tombstone", "key": "user=a"}


def test_lines_are_plain_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    output = Output(stream, "lines")
    output.show_event(DECISION)
    output.show_event(HeartbeatEvent(source="a", seq=1, at_ms=1))
    output.show_undecodable("decisions", Consumed(None), "no value")
    lines = stream.getvalue().splitlines()
    assert lines == [
        "1970-01-01 00:00:00.001Z allow a\\nb x (policy p; cost 1; 0 left)",
        "undecodable decisions/0/7: no value: ",
    ]


def test_a_pipe_whose_reader_has_gone_is_closed() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        output = Output(stream, "lines")
        assert not output.is_closed()
        os.close(reader)
        assert output.is_closed()


def test_a_stream_without_a_descriptor_is_open() -> None:
    assert not Output(io.StringIO(), "lines").is_closed()
