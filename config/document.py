"""Read a YAML document into a frozen model, or say exactly what is wrong and where.

A problem names the file, the line, the key and what is allowed. All problems of a document are reported together, and a
document with a problem is refused whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError

Model = TypeVar("Model", bound=BaseModel)

_UNITS_US = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(r"(\d{1,9})(us|ms|s|m|h|d)")
_PLACE = re.compile(r"([\w.\[\]]+): ")
_SCALARS = (str, int, float, type(None))
_DEEPEST = 50
_LARGEST_BYTES = 4 * 1024 * 1024


class DocumentError(Exception):
    """The document was refused. Whatever was in force before stays in force.

    ``problems`` holds one line each: ``file:line: key: what is wrong, what is allowed``.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Model]):
    """A document as it is in force."""

    model: Model
    version: str
    """First 12 hex digits of the SHA-256 of the text."""
    text: str


def parse_duration_us(value: object) -> int:
    """Parse ``500ms``, ``1m``, ``24h`` into microseconds.

    Raises:
        ValueError: Not a whole number directly followed by us, ms, s, m, h or d, or zero.
    """
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{value!r} is not a duration; write a whole number and a unit: us, ms, s, m, h or d, as in 1m")
    return int(found[1]) * _UNITS_US[found[2]]


DurationUs = Annotated[int, BeforeValidator(parse_duration_us)]
"""A duration as operators write it, in microseconds."""


def read_document(path: Path, model: type[Model]) -> Loaded[Model]:
    """Read and validate one document.

    Raises:
        DocumentError: It cannot be read or is refused.
    """
    return parse_document(read_text(path), model, name=str(path))


def read_text(path: Path) -> str:
    """Read the text of one document.

    Raises:
        DocumentError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError([f"{path}: cannot be read: {error}"]) from error


def parse_document(
    text: str, model: type[Model], *, name: str, loader: type[yaml.SafeLoader | yaml.BaseLoader] = yaml.SafeLoader
) -> Loaded[Model]:
    """Validate the text of one document.

    Args:
        text: YAML.
        model: What it must be.
        name: Stands for the file in messages.
        loader: How scalars are read; the base loader leaves all as the text that stands there.

    Raises:
        DocumentError: The document is refused.
    """
    if len(text) > _LARGEST_BYTES:
        raise DocumentError([f"{name}: larger than {_LARGEST_BYTES} bytes"])
    try:
        _reject_traps(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _reject_doubles(root, name)
        content = yaml.load(text, loader)  # noqa: S506 both build nothing but text, numbers, lists and mappings
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError([f"{name}:{line}: not YAML: {error.problem}"]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError([f"{name}: not YAML: {error}"]) from error
    if not isinstance(content, dict):
        raise DocumentError([f"{name}:1: a mapping is expected, with the keys: {', '.join(model.model_fields)}"])
    try:
        parsed = model.model_validate(content)
    except ValidationError as error:
        raise DocumentError(_describe(error, root, name, model)) from error
    return Loaded(parsed, hashlib.sha256(text.encode()).hexdigest()[:12], text)


def place_problems(path: Path, problems: Iterable[str]) -> DocumentError:
    """Make the refusal of a document for what came to light after it was read: each problem gets its line.

    Args:
        path: Of the document.
        problems: One line each: ``rules[0].by: what is wrong, what is allowed``.

    Raises:
        DocumentError: It cannot be read any more.
    """
    root = yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    return DocumentError(_name_place(root, str(path), *_split_place(problem)) for problem in problems)


def _reject_traps(text: str, name: str) -> None:
    """An alias may repeat itself without bound, and the parser's time grows with the square of the depth."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise DocumentError([f"{name}:{line}: aliases (*name) are not allowed; write it out"])
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise DocumentError([f"{name}: nested too deeply"])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _reject_doubles(root: yaml.Node | None, name: str) -> None:
    """YAML lets a key stand twice, and the last one win."""
    pending = [root] if root is not None else []
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise DocumentError([f"{name}:{key.start_mark.line + 1}: a list or a mapping is no key; write a name"])
                if key.value in keys:
                    raise DocumentError([f"{name}:{key.start_mark.line + 1}: {key.value}: stands here a second time"])
                keys.add(str(key.value))
                pending.append(value)
        elif isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)


def _describe(error: ValidationError, root: yaml.Node | None, name: str, model: type[BaseModel]) -> list[str]:
    problems = []
    items = error.errors(include_url=False)
    places = [item["loc"] for item in items]
    for item in items:
        if any(len(other) > len(item["loc"]) and other[: len(item["loc"])] == item["loc"] for other in places):
            continue  # it only repeats that something inside is wrong
        place = _find_place(root, item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if not place:  # a check over the whole document names its places itself, and has a line for each problem
            problems += [_name_place(root, name, *_split_place(line)) for line in message.splitlines()]
            continue
        if item["type"] == "extra_forbidden":
            message = f"unknown key; allowed are: {', '.join(_allowed_keys(model, place[:-1])) or 'none'}"
        elif item["type"] == "missing":
            message = "is missing"
        elif isinstance(item["input"], _SCALARS) and repr(item["input"]) not in message:
            message = f"{message}, not {item['input']!r:.80}"
        problems.append(_name_place(root, name, place, message))
    return problems


def _name_place(root: yaml.Node | None, name: str, place: list[int | str], message: str) -> str:
    line, path = _locate(root, place)
    return f"{name}:{line}: {path or 'document'}: {message[0].lower()}{message[1:]}"


def _split_place(problem: str) -> tuple[list[int | str], str]:
    """Split ``policies[0].name: is wrong`` into the steps of the place and what is wrong there."""
    found = _PLACE.match(problem)
    if found is None:
        return [], problem
    steps = re.findall(r"\w+", found[1])
    return [int(step) if step.isdigit() else step for step in steps], problem[found.end() :]


def _find_place(root: yaml.Node | None, steps: Iterable[object]) -> list[int | str]:
    """The steps that the document has, or should have; the others name models and validators."""
    place: list[int | str] = []
    for step in steps:
        if isinstance(step, (int, str)) and (_find_child(_walk(root, place), step) is not None or not _is_model_step(step)):
            place.append(step)
    return place


def _is_model_step(step: int | str) -> bool:
    return isinstance(step, str) and (step.startswith(("function-", "tagged-union", "[")) or step[:1].isupper())


def _find_child(node: yaml.Node | None, step: int | str) -> tuple[int, yaml.Node] | None:
    """Line and content of one entry."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        value = node.value[step]
        return value.start_mark.line + 1, value
    return None


def _walk(root: yaml.Node | None, place: Iterable[int | str]) -> yaml.Node | None:
    node = root
    for step in place:
        child = _find_child(node, step)
        node = None if child is None else child[1]
    return node


def _locate(root: yaml.Node | None, place: list[int | str]) -> tuple[int, str]:
    """The line of the deepest entry that exists on the way, and the path as a person writes it."""
    node, line, path = root, 1, ""
    for step in place:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
        child = _find_child(node, step)
        if child is None:
            node = None
        else:
            line, node = child
    return line, path


def _allowed_keys(model: type[BaseModel], place: list[int | str]) -> list[str]:
    current: type[BaseModel] | None = model
    is_key = False  # of a mapping whose keys the document chooses
    for step in place:
        if isinstance(step, int) or is_key:
            is_key = False
            continue
        field = current.model_fields.get(step) if current else None
        current = _find_model(field.annotation) if field else None
        is_key = field is not None and get_origin(field.annotation) is dict
    return list(current.model_fields) if current else []


def _find_model(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _find_model(argument)
        if found is not None:
            return found
    return None
