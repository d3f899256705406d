"""YAML documents and exact messages about their mistakes: file, line, key, and what is allowed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml
from pydantic import BaseModel, ValidationError

Path = tuple[str | int, ...]
Lines = Mapping[Path, int]


class DocumentError(Exception):
    """A document cannot be used. ``mistakes`` holds one whole line for each; nothing of the document may be used."""

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def read_yaml(text: str, name: str) -> tuple[object, Lines]:
    """Read YAML, and where each of its keys stands.

    Returns:
        The document, and the line (from 1) of every path in it.

    Raises:
        DocumentError: It is no YAML, or a mapping holds a key twice (YAML parsers silently keep the last one).
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise DocumentError((f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}",)) from error
    lines: dict[Path, int] = {}
    twice = []
    for path, line in _walk(node, ()):
        if path in lines:
            twice.append(f"{name}:{line}: {format_path(path)}: this key stands here twice, first on line {lines[path]}")
        lines[path] = line
    if twice:
        raise DocumentError(tuple(twice))
    return document, lines


def _walk(node: yaml.Node | None, path: Path) -> Iterator[tuple[Path, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _walk(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = (*path, index)
            yield inner, value.start_mark.line + 1
            yield from _walk(value, inner)


def describe_mistakes(
    error: ValidationError, name: str, lines: Lines, models: Mapping[str, type[BaseModel]]
) -> tuple[str, ...]:
    """Turn what pydantic found into one line per mistake: ``file:line: key: what is wrong; allowed: what``.

    Args:
        error: What validation raised.
        name: What the document is called.
        lines: Where its keys stand, from :func:`read_yaml`.
        models: The models by their path without indexes (``rules.match``), to name the keys that are allowed.
    """
    mistakes = []
    for detail in error.errors():
        path: Path = tuple(detail["loc"])
        if detail["type"] == "extra_forbidden":
            message = f"unknown key; allowed: {_name_keys(path[:-1], models)}"
        elif detail["type"] == "missing":
            message = "is missing"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            if not isinstance(detail["input"], dict | list) and "allowed" not in message:
                message = f"{message}, not {detail['input']!r}"
        mistakes.append(f"{name}{_find_line(path, lines)}: {format_path(path)}: {message}")
    return tuple(mistakes)


def format_path(path: Path) -> str:
    """Write a path as people do: ``rules[0].match.action``; ``document`` for the whole."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "document"


def _find_line(path: Path, lines: Lines) -> str:
    # What is missing has no line of its own: the nearest key around it has.
    while path and path not in lines:
        path = path[:-1]
    return f":{lines[path]}" if path else ""


def _name_keys(path: Path, models: Mapping[str, type[BaseModel]]) -> str:
    model = models.get(".".join(part for part in path if isinstance(part, str)))
    return ", ".join(field.alias or name for name, field in model.model_fields.items()) if model else "nothing here"
