"""Reading a document: what is refused before the model is asked, and that messages name line and key."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from config.document import DocumentError, DurationUs, parse_document, parse_duration_us, read_document


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    size: Annotated[int, Field(ge=1)] = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    every: DurationUs = 1_000_000
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()


def refuse(text: str) -> list[str]:
    with pytest.raises(DocumentError) as refused:
        parse_document(text, Outer, name="doc.yaml")
    return list(refused.value.problems)


def test_document_is_read_into_the_model_with_its_version(tmp_path: Path) -> None:
    text = "title: ünïcode # comment\nevery: 5m\ninners:\n  - { name: a }\n  - { name: b, size: 3 }\n"
    path = tmp_path / "doc.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = read_document(path, Outer)
    assert loaded.model == Outer.model_validate(
        {"title": "ünïcode", "every": "5m", "inners": [{"name": "a"}, Inner(name="b", size=3)]}
    )
    assert loaded.model.every == 300_000_000
    assert loaded.version == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert loaded.text == text


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    with pytest.raises(DocumentError) as refused:
        read_document(path, Outer)
    assert str(refused.value).startswith(f"{path}: cannot be read: ")
    assert "No such file" in str(refused.value)


def test_folder_is_no_document(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be read"):
        read_document(tmp_path, Outer)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "doc.yaml"
    path.write_bytes("title: für\n".encode("latin-1"))
    with pytest.raises(DocumentError) as refused:
        read_document(path, Outer)
    assert str(refused.value).startswith(f"{path}: cannot be read: 'utf-8' codec can't decode byte 0xfc")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "null\n", "5\n", "text\n", "- a\n"])
def test_whatever_is_no_mapping_is_refused_with_the_keys(text: str) -> None:
    assert refuse(text) == ["doc.yaml:1: a mapping is expected, with the keys: title, every, inner, inners"]


def test_key_that_stands_twice_is_refused_where_it_stands_again() -> None:
    assert refuse("title: a\ninner:\n  name: x\n  name: y\n") == ["doc.yaml:4: name: stands here a second time"]
    assert refuse("title: a\n'title': b\n") == ["doc.yaml:2: title: stands here a second time"]


def test_aliases_are_refused_before_they_multiply() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (problem,) = refuse(bomb)
    assert problem.endswith("aliases (*name) are not allowed; write it out")


def test_anchor_without_an_alias_harms_nobody() -> None:
    assert parse_document("title: &t a\n", Outer, name="doc.yaml").model.title == "a"


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    assert refuse("title: " + "[" * 20_000 + "]" * 20_000) == ["doc.yaml: nested too deeply"]


def test_huge_document_is_refused_unread() -> None:
    assert refuse("a" * (4 * 1024 * 1024 + 1)) == ["doc.yaml: larger than 4194304 bytes"]


@pytest.mark.parametrize(
    "text", ["title: [a\n", "title: 'a\n", "\ttitle: a\n", "title: a\n---\ntitle: b\n", "title: !!js/x a\n"]
)
def test_what_is_not_yaml_is_refused_with_its_line(text: str) -> None:
    (problem,) = refuse(text)
    assert problem.startswith("doc.yaml:")
    assert ": not YAML: " in problem


@pytest.mark.parametrize("text", ["title: 2024-13-45\n", f"title: {'1' * 5000}\n", "title: a\0b\n"])
def test_scalars_that_cannot_be_read_are_refused(text: str) -> None:
    (problem,) = refuse(text)
    assert problem.startswith("doc.yaml: not YAML: ")


@pytest.mark.parametrize("key", ["? [a]\n", "? {a: b}\n"])
def test_list_or_mapping_as_a_key_is_refused(key: str) -> None:
    assert refuse(f"title: a\n{key}: b\n") == ["doc.yaml:2: a list or a mapping is no key; write a name"]


@pytest.mark.parametrize("key", ["colour", "Colour", "COLOUR", "function-x", "tagged-union"])
def test_unknown_key_is_named_with_its_line_and_what_is_allowed(key: str) -> None:
    assert refuse(f"title: a\n{key}: red\n") == [f"doc.yaml:2: {key}: unknown key; allowed are: title, every, inner, inners"]
    assert refuse(f"title: a\ninners:\n  - name: x\n  - name: y\n    {key}: red\n") == [
        f"doc.yaml:5: inners[1].{key}: unknown key; allowed are: name, size"
    ]


def test_unknown_key_in_an_optional_part_is_named_with_what_that_part_allows() -> None:
    assert refuse("title: a\ninner:\n  name: x\n  colour: red\n") == [
        "doc.yaml:4: inner.colour: unknown key; allowed are: name, size"
    ]


def test_all_problems_are_reported_together_in_order() -> None:
    assert refuse("every: often\ninners:\n  - { size: 0 }\n") == [
        "doc.yaml:1: title: is missing",
        "doc.yaml:1: every: 'often' is not a duration; write a whole number and a unit: us, ms, s, m, h or d, as in 1m",
        "doc.yaml:3: inners[0].name: is missing",
        "doc.yaml:3: inners[0].size: input should be greater than or equal to 1, not 0",
    ]


def test_long_values_are_cut_in_messages() -> None:
    (problem,) = refuse(f"title: a\ninners:\n  - {{ name: a, size: {'x' * 10_000} }}\n")
    assert len(problem) < 250


@pytest.mark.parametrize(
    ("text", "expected_us"),
    [("1us", 1), ("500ms", 500_000), ("1s", 1_000_000), ("2m", 120_000_000), ("1h", 3_600_000_000), ("1d", 86_400_000_000)],
)
def test_durations_are_microseconds(text: str, expected_us: int) -> None:
    assert parse_duration_us(text) == expected_us


@pytest.mark.parametrize(
    "value", ["", "1", "1.5s", "s", "-1s", "0s", "00m", "1 s", "1S", "1w", "1s ", "1234567890s", 5, None, True]
)
def test_other_durations_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration; write a whole number and a unit"):
        parse_duration_us(value)
