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
from typing import Annotated, Generic, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError

Model = TypeVar("Model", bound=BaseModel)

_UNITS_US = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(r"(\d{1,9})(us|ms|s|m|h|d)")
_WHOLE = re.compile(r"(\w+)(?:\[(\d+)\])?: ")
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
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError([f"{path}: cannot be read: {error}"]) from error
    return parse_document(text, model, name=str(path))


def parse_document(text: str, model: type[Model], *, name: str) -> Loaded[Model]:
    """Validate the text of one document; ``name`` stands for the file in messages.

    Raises:
        DocumentError: The document is refused.
    """
    if len(text) > _LARGEST_BYTES:
        raise DocumentError([f"{name}: larger than {_LARGEST_BYTES} bytes"])
    try:
        _reject_aliases(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _reject_doubles(root, name)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError([f"{name}:{line}: not YAML: {error.problem}"]) from error
    except RecursionError as error:
        raise DocumentError([f"{name}: nested too deeply"]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError([f"{name}: not YAML: {error}"]) from error
    if not isinstance(content, dict):
        raise DocumentError([f"{name}:1: a mapping is expected, with the keys: {', '.join(model.model_fields)}"])
    try:
        parsed = model.model_validate(content)
    except ValidationError as error:
        raise DocumentError(_describe(error, root, name, model)) from error
    return Loaded(parsed, hashlib.sha256(text.encode()).hexdigest()[:12], text)


def _reject_aliases(text: str, name: str) -> None:
    """An alias may repeat itself without bound."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise DocumentError([f"{name}:{line}: aliases (*name) are not allowed; write it out"])


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
        is_unknown = item["type"] == "extra_forbidden"  # then the last step is what the document says, whatever it looks like
        last = len(item["loc"]) - 1
        place = [
            step
            for position, step in enumerate(item["loc"])
            if isinstance(step, (int, str)) and ((is_unknown and position == last) or not _is_model_step(step))
        ]
        message = item["msg"].removeprefix("Value error, ")
        whole = _WHOLE.match(message) if not place else None
        if whole is not None:  # a check over the whole document names its place itself
            place = [whole[1]] if whole[2] is None else [whole[1], int(whole[2])]
            message = message[whole.end() :]
        line, path = _locate(root, place)
        if is_unknown:
            message = f"unknown key; allowed are: {', '.join(_allowed_keys(model, place[:-1])) or 'none'}"
        elif item["type"] == "missing":
            message = "is missing"
        elif "input" in item and not isinstance(item["input"], (dict, list)) and repr(item["input"]) not in message:
            message = f"{message}, not {item['input']!r:.80}"
        problems.append(f"{name}:{line}: {path or 'document'}: {message[0].lower()}{message[1:]}")
    return problems


def _is_model_step(step: int | str) -> bool:
    return isinstance(step, str) and (step.startswith(("function-", "tagged-union")) or step[:1].isupper())


def _locate(root: yaml.Node | None, place: list[int | str]) -> tuple[int, str]:
    """Walk to the deepest node that exists on the way; its line, and the path as a person writes it."""
    node, line, path = root, 1, ""
    for step in place:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    line, node = key.start_mark.line + 1, value
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line, path


def _allowed_keys(model: type[BaseModel], place: list[int | str]) -> list[str]:
    current: type[BaseModel] | None = model
    for step in place:
        if isinstance(step, int):
            continue
        field = current.model_fields.get(step) if current else None
        current = _find_model(field.annotation) if field else None
    return list(current.model_fields) if current else []


def _find_model(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _find_model(argument)
        if found is not None:
            return found
    return None
