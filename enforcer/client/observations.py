"""How a backend fares, counted per action and second until it is reported. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from enforcer.limits.check import is_action
from ratchet.v1 import enforcer_pb2
from topics.sketch import find_bucket

MOST_OPEN = 256
"""Actions and seconds held at once, and reported by one call."""


@dataclass(slots=True)
class _Second:
    count: int = 0
    errors: int = 0
    timeouts: int = 0
    latencies: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Observations:
    """What was observed since the last report. Bounded; never raises."""

    dropped: int = 0
    """Observations that there was no room for, or that were none."""
    _seconds: dict[tuple[str, int], _Second] = field(default_factory=dict)

    def add(self, action: str, latency_s: float, now_s: float, *, is_error: bool, is_timeout: bool) -> None:
        """Count one request that ended.

        Args:
            action: As in the check.
            latency_s: How long it took; of one that ran into its timeout, the timeout.
            now_s: Seconds since the epoch.
            is_error: It failed by the backend's fault.
            is_timeout: It ran into its timeout.
        """
        key = (action, int(now_s))
        second = self._seconds.get(key)
        if second is None:
            if len(self._seconds) >= MOST_OPEN or not is_action(action):
                self.dropped += 1
                return
            second = self._seconds[key] = _Second()
        if not 0 <= latency_s < math.inf:
            self.dropped += 1
            return
        second.count += 1
        second.errors += is_error
        second.timeouts += is_timeout
        bucket = find_bucket(latency_s * 1e6)
        second.latencies[bucket] = second.latencies.get(bucket, 0) + 1

    def take(self) -> list[enforcer_pb2.OutcomeReport]:
        """Hand out what was counted since the last call, and begin anew."""
        seconds, self._seconds = self._seconds, {}
        return [
            enforcer_pb2.OutcomeReport(
                action=action,
                second_ms=at_s * 1000,
                count=second.count,
                errors=second.errors,
                timeouts=second.timeouts,
                latencies=[
                    enforcer_pb2.LatencyBucket(index=index, count=count) for index, count in sorted(second.latencies.items())
                ],
            )
            for (action, at_s), second in seconds.items()
            if second.count
        ]
