"""Durations as people write them in YAML: ``500ms``, ``2s``, ``1m``, ``24h``, ``7d``. Pure."""

from __future__ import annotations

import re

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,9})\s*(ms|s|m|h|d)")

EXAMPLES = "a whole number with a unit, like 500ms, 2s, 1m, 24h or 7d"


def parse_duration_ms(text: object) -> int:
    """Read one duration.

    Returns:
        Milliseconds, >= 0. A bare number is refused: nobody could tell its unit.

    Raises:
        ValueError: Not a duration; the message says what is allowed.
    """
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; allowed: {EXAMPLES}")
    return int(match[1]) * _UNITS_MS[match[2]]


def format_duration(duration_ms: int) -> str:
    """Write a duration in the largest unit that divides it: ``90000`` is ``90s``, ``60000`` is ``1m``."""
    for unit, unit_ms in reversed(_UNITS_MS.items()):
        if duration_ms % unit_ms == 0 and duration_ms >= unit_ms:
            return f"{duration_ms // unit_ms}{unit}"
    return "0ms"
