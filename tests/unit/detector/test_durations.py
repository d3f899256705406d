from __future__ import annotations

import pytest

from detector.durations import format_duration, parse_duration_ms


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("500ms", 500), ("2s", 2_000), ("1m", 60_000), ("24h", 86_400_000), ("7d", 604_800_000), ("2000us", 2)],
)
def test_durations_are_read_in_milliseconds(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("value", ["10", 10, "1.5s", "-1s", "0s", "", None, "1 week", "500us", "1s 2"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"duration|millisecond"):
        parse_duration_ms(value)


@pytest.mark.parametrize("text", ["500ms", "90s", "1m", "2h", "1d"])
def test_a_duration_is_written_as_people_write_it(text: str) -> None:
    assert format_duration(parse_duration_ms(text)) == text
