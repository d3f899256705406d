"""Durations of the rules document, in whole milliseconds. Pure."""

from __future__ import annotations

from config.document import parse_duration_us

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


def parse_duration_ms(value: object) -> int:
    """Read ``500ms``, ``2s``, ``1m``, ``24h``, ``7d``. A bare number is refused: nobody could tell its unit.

    Returns:
        Milliseconds, at least 1.

    Raises:
        ValueError: Not a duration, or not in whole milliseconds; the message says what is allowed.
    """
    duration_ms, rest_us = divmod(parse_duration_us(value), 1_000)
    if rest_us:
        raise ValueError(f"{value!r} is finer than a millisecond; allowed are whole milliseconds, as in 500ms")
    return duration_ms


def format_duration(duration_ms: int) -> str:
    """Write a duration, at least 1 ms, in the largest unit that divides it: ``90000`` is ``90s``, ``60000`` is ``1m``."""
    unit = next(unit for unit, unit_ms in _UNITS_MS.items() if duration_ms % unit_ms == 0)
    return f"{duration_ms // _UNITS_MS[unit]}{unit}"
