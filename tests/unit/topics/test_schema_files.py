from __future__ import annotations

import json
from pathlib import Path

from topics import events
from topics.events import RECORDS
from topics.schema_files import build_schemas, write_schemas

PUBLISHED = Path(events.__file__).parent / "schemas"


def test_published_schemas_are_current() -> None:
    published = {path.name: path.read_text(encoding="utf-8") for path in PUBLISHED.iterdir()}
    assert published == build_schemas()


def test_there_is_a_schema_for_every_topic_and_every_event() -> None:
    names = set(build_schemas())
    assert {f"topic.{topic}.json" for topic in RECORDS} <= names
    assert "event.decision.json" in names
    assert "event.event.json" not in names


def test_the_type_is_required_since_it_tells_events_apart() -> None:
    schema = json.loads(build_schemas()["topic.decisions.json"])
    assert all(kind["required"][0] == "type" for kind in schema["$defs"].values())


def test_a_folder_is_made_and_what_else_is_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("x")
    written = write_schemas(folder)
    assert {path.name for path in folder.iterdir()} == {*(path.name for path in written), "mine.txt"}
