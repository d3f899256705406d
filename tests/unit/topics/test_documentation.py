from __future__ import annotations

import re
from pathlib import Path

import pytest

from topics.codec import decode
from topics.events import RECORDS
from topics.lines import say
from topics.specs import DAY_MS, SPECS, TopicSpec

TEXT = (Path(__file__).parents[3] / "docs" / "topics.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", TEXT, re.MULTILINE | re.DOTALL))
EXAMPLES = [
    (topic, example) for topic, text in SECTIONS.items() for example in re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)
]


def test_every_topic_has_examples() -> None:
    assert {topic for topic, _ in EXAMPLES} == set(RECORDS)


@pytest.mark.parametrize(("topic", "example"), EXAMPLES)
def test_examples_are_events_of_their_topic(topic: str, example: str) -> None:
    decode(topic, example.encode())


def test_the_line_that_tells_why_a_user_was_banned_is_what_the_command_prints() -> None:
    example = next(example for topic, example in EXAMPLES if topic == "verdicts")
    (line,) = say(decode("verdicts", example.encode()))
    assert "".join(text for text, _ in line) in TEXT


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_table_of_topics_is_what_the_specs_say(spec: TopicSpec) -> None:
    days = spec.retention_ms // DAY_MS
    kept = "forever" if spec.retention_ms < 0 else f"{days} day{'s' if days > 1 else ''}"
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{spec.name}`"))
    assert [cell.strip() for cell in row.split("|")][3:6] == [str(spec.partitions), kept, spec.cleanup]
