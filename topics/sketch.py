"""Latencies as counts by bucket, to one per cent. Pure.

A DDSketch (Masson, Rim, Lee: DDSketch, VLDB 2019) without its store: bucket ``i`` holds what lies in (BASE^(i-1), BASE^i]
microseconds. Sketches of one base are merged by adding their counts, exactly; that is why the base never changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

BASE = 1.0202
"""(1 + a) / (1 - a) for a relative accuracy a of 1 %."""
LARGEST_INDEX = 1275
"""Of what is written: 33 hours. What lies above counts as that, what lies below a microsecond as bucket 0."""

_LOG_BASE = math.log(BASE)


def find_bucket(latency_us: float) -> int:
    """Find the bucket of a latency, 0 to ``LARGEST_INDEX``."""
    if latency_us <= 1:
        return 0
    return min(math.ceil(math.log(latency_us) / _LOG_BASE), LARGEST_INDEX)


def estimate_us(latencies: Mapping[int, int], share: float) -> float:
    """Estimate a quantile, in microseconds, to one per cent.

    Args:
        latencies: Counts by bucket; not empty.
        share: From 0 to 1.
    """
    rest = share * sum(latencies.values())
    for index in sorted(latencies):
        rest -= latencies[index]
        if rest <= 0:
            # A bucket far above any latency must not stop the reader.
            return 2 * BASE**index / (BASE + 1) if index < 30_000 else math.inf
    return 0.0
