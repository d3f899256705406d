"""Turn events into record values and back, with errors that fit on one line. Pure."""

from __future__ import annotations

from pydantic import ValidationError

from topics.events import RECORDS, Event

LONGEST_QUOTE_CHARS = 80


class Undecodable(Exception):  # noqa: N818 - says what the record is
    """A record that is no event of its topic. Reading it again cannot help: bury it and go on with the next."""


def encode(event: Event) -> bytes:
    """Encode an event as its record's value: JSON in UTF-8 on one line, with all fields.

    For writers that are not in a hurry, and for tests. A writer of many events may leave out what has its default.
    """
    return event.model_dump_json().encode()


def decode(topic: str, value: bytes | None) -> Event:
    """Decode and validate a record's value.

    Args:
        topic: One of the six topics; decides which events are possible.
        value: The record's value; None is a tombstone, which only ``subjects`` may hold and which is no event.

    Raises:
        Undecodable: With the first thing that is wrong, on one line.
    """
    if value is None:
        raise Undecodable("no value")
    try:
        return RECORDS[topic].validate_json(value)
    except ValidationError as error:
        raise Undecodable(describe(error)) from error


def describe(error: ValidationError) -> str:
    """Describe the first thing that is wrong, and how many more there are, on one line."""
    first, *rest = error.errors(include_url=False, include_context=False)
    place = ".".join(str(part) for part in first["loc"])
    quoted = repr(first["input"])
    if len(quoted) > LONGEST_QUOTE_CHARS:
        quoted = f"{quoted[:LONGEST_QUOTE_CHARS]}…"
    return f"{f'{place}: ' if place else ''}{first['msg']}, got {quoted}{f' (and {len(rest)} more)' if rest else ''}"
