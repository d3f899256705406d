"""Patterns in which ``*`` stands for any run of characters, also none. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def matches(parts: Sequence[str], text: str) -> bool:
    """Whether a text is these parts, in their order, with anything between them.

    Args:
        parts: The pattern, split at its stars; a single part is matched by itself alone.
        text: Any text.
    """
    if len(parts) == 1:
        return text == parts[0]
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in middle:
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True
