"""Merge what backends report of their latency and errors, per action and second. Pure.

Feeds the adaptive throttle through topic ``outcomes``, never a ban. Sketches of one base are merged by adding their counts, so
nothing is lost by merging over callers here and over enforcers in the detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from enforcer.limits.check import is_action
from topics.sketch import LARGEST_INDEX

MOST_REPORTS_PER_CALL = 256
MOST_OPEN = 4096
"""Actions and seconds held between two flushes; actions are the callers' choice."""
OLDEST_MS = 10_000
"""A report of an earlier second says nothing of how the backend fares now."""
NEWEST_MS = 2_000
"""How far a backend's clock may be ahead of this enforcer's."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a backend fared with one action in one second."""

    action: str
    second_ms: int
    count: int
    errors: int
    timeouts: int
    latencies: tuple[tuple[int, int], ...]
    """Bucket (:mod:`topics.sketch`) and count."""


@dataclass(slots=True)
class Merged:
    """The reports of one action and second, over callers."""

    count: int = 0
    errors: int = 0
    timeouts: int = 0
    latencies: dict[int, int] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        """Add one report."""
        self.count += report.count
        self.errors += report.errors
        self.timeouts += report.timeouts
        for index, count in report.latencies:
            self.latencies[index] = self.latencies.get(index, 0) + count


class InvalidReport(ValueError):  # noqa: N818 it says what is wrong
    """The report's content is out of bounds: the caller's fault. Nothing of its call was taken; never repeat it as it is."""


def validate_reports(reports: Sequence[Report], now_ms: int) -> None:
    """Bound every part of one call's reports.

    Args:
        reports: All of the call.
        now_ms: This enforcer's clock.

    Raises:
        InvalidReport: Names the first that is wrong, and says what is allowed.
    """
    if not 1 <= len(reports) <= MOST_REPORTS_PER_CALL:
        raise InvalidReport(f"reports has {len(reports)} entries; 1 to {MOST_REPORTS_PER_CALL} are allowed")
    for position, report in enumerate(reports):
        for fault in _list_faults(report, now_ms):
            raise InvalidReport(f"reports[{position}]: {fault}")


def _list_faults(report: Report, now_ms: int) -> Iterator[str]:
    if not is_action(report.action):
        yield f"action {report.action[:64]!r} is not 1 to 128 printable ASCII characters without spaces"
    yield from _list_faults_of_second(report, now_ms)
    if report.count < 1:
        yield "count is 0; a second without requests is not reported"
    for name, value in (("errors", report.errors), ("timeouts", report.timeouts)):
        if value > report.count:
            yield f"{name} is {value}, more than count, {report.count}"
    for index, _ in report.latencies:
        if not 0 <= index <= LARGEST_INDEX:
            yield f"latencies: the index {index} is not 0 to {LARGEST_INDEX}"
    held = sum(count for _, count in report.latencies)
    if held != report.count:
        yield f"latencies hold {held} requests, count says {report.count}"


def _list_faults_of_second(report: Report, now_ms: int) -> Iterator[str]:
    if report.second_ms % 1000:
        yield f"second_ms is {report.second_ms}; whole seconds are allowed, multiples of 1000"
    age_ms = now_ms - report.second_ms
    if age_ms > OLDEST_MS:
        yield f"second_ms is {age_ms} ms old; at most {OLDEST_MS} are allowed"
    if -age_ms > NEWEST_MS:
        yield f"second_ms is {-age_ms} ms ahead of this enforcer's clock; at most {NEWEST_MS} are allowed"


@dataclass(slots=True)
class Outcomes:
    """The reports since the last flush. Holds at most ``MOST_OPEN`` actions and seconds."""

    reports: int = 0
    dropped: int = 0
    """Reports that there was no room for, or that waited too long for Kafka."""
    _open: dict[tuple[str, int], Merged] = field(default_factory=dict)
    _reports_in: dict[tuple[str, int], int] = field(default_factory=dict)

    def add(self, reports: Sequence[Report], now_ms: int) -> None:
        """Merge the reports of one call, all or none.

        Raises:
            InvalidReport: Nothing was taken.
        """
        validate_reports(reports, now_ms)
        self.reports += len(reports)
        for report in reports:
            key = (report.action, report.second_ms)
            merged = self._open.get(key)
            if merged is None:
                if len(self._open) >= MOST_OPEN:
                    self.dropped += 1
                    continue
                merged = self._open[key] = Merged()
                self._reports_in[key] = 0
            merged.add(report)
            self._reports_in[key] += 1

    def take(self, now_ms: int) -> list[tuple[str, int, Merged]]:
        """Hand out action, second and what was merged since the last call, without seconds that have become too old."""
        taken = []
        for (action, second_ms), merged in self._open.items():
            # A report may be of the oldest second that is allowed, and waits here for a second at most unless Kafka is away.
            if now_ms - second_ms > 2 * OLDEST_MS:
                self.dropped += self._reports_in[action, second_ms]
            else:
                taken.append((action, second_ms, merged))
        self._open.clear()
        self._reports_in.clear()
        return taken
