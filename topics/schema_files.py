"""JSON Schemas of all topics and events, as files for readers in other languages. Pure but for the writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from topics import events
from topics.events import RECORDS, Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def build_schemas() -> dict[str, str]:
    """Build all schemas: text by file name, ``topic.<topic>.json`` and ``event.<type>.json``. The same on every run."""
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event]
    schemas: dict[str, TypeAdapter[Any]] = {f"topic.{topic}.json": adapter for topic, adapter in RECORDS.items()}
    schemas |= {f"event.{kind.model_fields['type'].default}.json": TypeAdapter(kind) for kind in kinds}
    return {name: _write(adapter.json_schema()) for name, adapter in sorted(schemas.items())}


def write_schemas(folder: Path) -> list[Path]:
    """Write all schemas into a folder, which is made when it is missing. Other files there stay.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in build_schemas().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _write(schema: dict[str, Any]) -> str:
    for part in (schema, *schema.get("$defs", {}).values()):
        # A default makes a field optional for pydantic, but the type is what tells the events of a topic apart.
        if "type" in part.get("properties", {}):
            part["required"] = ["type", *(field for field in part.get("required", ()) if field != "type")]
    return json.dumps({"$schema": DIALECT, **schema}, indent=2, ensure_ascii=False) + "\n"
