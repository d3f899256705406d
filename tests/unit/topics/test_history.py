"""A file of decisions is read in order, with what is missing, doubled or no event told."""

from __future__ import annotations

from pathlib import Path

import msgspec

from topics.history import DecisionHistory
from topics.recorded import Recorded
from topics.wire import DecisionEvent, GapEvent

START_MS = 1_800_000_000_000


def test_decisions_of_that_time_are_fed_in_order_and_once(tmp_path: Path) -> None:
    events: list[object] = [
        DecisionEvent("a/0/1", seq, START_MS + at_ms, "alice", "login", "login", "v", "allow", "ok")
        for seq, at_ms in ((2, 20), (1, 10), (2, 20), (3, 30), (4, 40))
    ]
    events.append(GapEvent("a/0/1", ((5, 7),), START_MS, "buffer_full"))
    file = tmp_path / "decisions.jsonl"
    file.write_bytes(b"\n".join([*map(msgspec.json.encode, events), b"no event", b""]))
    fed: list[Recorded] = []
    history = DecisionHistory(fed.append, START_MS + 10, START_MS + 30, title="reading")
    history.read_file(file)
    assert [each.seq for each in fed] == [1, 2, 3]
    assert (history.missing, history.doubled, history.undecodable) == (3, 1, 1)
