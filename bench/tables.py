"""Results as text: one line for a run, one table for a suite."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec

from bench.measure import Measurement


class Row(msgspec.Struct, frozen=True):
    """All rounds of one scenario on one server."""

    server: str
    scenario: str
    rounds: tuple[Measurement, ...]

    def median(self, read: Callable[[Measurement], float | None]) -> float | None:
        """Return the median over the rounds that have the figure; None when none has."""
        values = [value for value in map(read, self.rounds) if value is not None]
        return statistics.median(values) if values else None


class Results(msgspec.Struct, frozen=True):
    """What a suite gave; the file that ``plot`` reads."""

    machine: str
    rows: tuple[Row, ...]


def measure_bucket_bytes(one: Measurement) -> float | None:
    """Return by how much Redis grew for each new key; None where it is not told, or where most keys were there before."""
    keys, grown = one.redis_new_keys, one.redis_new_bytes
    if keys is None or grown is None or keys < 1 or keys < one.seen.decisions / 2:
        return None
    return grown / keys


_COLUMNS: tuple[tuple[str, int, Callable[[Measurement], float | None]], ...] = (
    ("decisions/s", 0, lambda one: one.decisions_per_s),
    ("server µs", 1, lambda one: one.server_cpu_us),
    ("Redis µs", 1, lambda one: one.redis_cpu_us),
    ("Kafka µs", 1, lambda one: one.kafka_cpu_us),
    ("load µs", 1, lambda one: one.load_cpu_us),
    ("script calls", 3, lambda one: one.redis_script_calls),
    ("p50 ms", 2, lambda one: one.seen.latency.p50_us / 1e3),
    ("p99 ms", 2, lambda one: one.seen.latency.p99_us / 1e3),
    ("p99.9 ms", 2, lambda one: one.seen.latency.p999_us / 1e3),
    ("busy", 2, lambda one: one.server_busy),
    ("refused", 2, lambda one: one.seen.over_limit / max(1, one.seen.decisions)),
    ("failed", 0, lambda one: one.failed),
    ("over-admitted", 0, lambda one: one.over_admitted),
    ("RSS MB", 0, lambda one: one.server_rss_end_bytes / 1e6),
    ("RSS +MB", 0, lambda one: (one.server_rss_end_bytes - one.server_rss_start_bytes) / 1e6),
    ("B/bucket", 0, measure_bucket_bytes),
)


def write_table(rows: Sequence[Row]) -> str:
    """Write the medians as a Markdown table; CPU is per decision, of whole process trees."""
    lines = [
        "| server | scenario | " + " | ".join(title for title, _, _ in _COLUMNS) + " |",
        "|---|---|" + "---:|" * len(_COLUMNS),
    ]
    for row in rows:
        cells = [write_number(row.median(read), digits) for _, digits, read in _COLUMNS]
        lines.append(f"| {row.server} | {row.scenario} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_run(one: Measurement) -> str:
    """Write one run as lines of ``name: figure``."""
    named = [(title, write_number(read(one), digits)) for title, digits, read in _COLUMNS]
    errors = " ".join(f"status {status}: {count}" for status, count in sorted(one.seen.errors.items()))
    return "\n".join(f"{title + ':':16}{text}" for title, text in [*named, ("errors", errors or "none")] if text)


def write_number(value: float | None, digits: int) -> str:
    """Write a number, or nothing where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"
