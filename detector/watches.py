"""What is counted for each subject: the thresholds of the rules, compiled. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from detector.rules import Rule, Rules, matches_glob
from topics.wire import Fold

BUCKETS = 12
NARROWEST_MS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """One threshold of one rule."""

    key: str
    """Names it among all watches, and what it counts: windows of a rule that counts otherwise are not taken for its own."""
    rule: Rule
    counts: Literal["denials", "actions", "users"]
    threshold: int
    start: int
    """Number of the rung that a first offence leads to, from 1."""
    window_ms: int
    width_ms: int
    """Of a bucket of the window."""
    most_admitted: int | None
    """Per mille; None: whatever passes, it is an offence."""
    cool_down_ms: int

    def covers(self, fold: Fold) -> bool:
        """Whether the rule counts this fold."""
        match = self.rule.match
        return (
            fold.subject.partition("=")[0] == self.rule.by
            and matches_glob(match.action, fold.action)
            and matches_glob(match.policy, fold.policy)
            and matches_glob(match.limit, fold.limit)
            and all(
                name in fold.attributes and matches_glob(globs, fold.attributes[name])
                for name, globs in match.attributes.items()
            )
        )


def measure_width_ms(window_ms: int) -> int:
    """Width of the buckets of a window, in milliseconds."""
    return max(NARROWEST_MS, -(-window_ms // BUCKETS))


def digest_count(rule: Rule) -> str:
    """Version of what a rule's windows hold, whatever thresholds they are compared with. 6 hexadecimal digits."""
    counted = (rule.by, rule.counts, rule.window_ms, rule.most_admitted is None, rule.match.model_dump_json())
    return hashlib.blake2b(repr(counted).encode(), digest_size=3).hexdigest()


def compile_watches(rules: Rules) -> tuple[Watch, ...]:
    """Compile all thresholds of all rules, in the order of the document."""
    watches = []
    for rule in rules.rules:
        version = digest_count(rule)
        steps = [(rule.threshold, rule.start), *((harder.threshold, harder.start) for harder in rule.harder)]
        for number, (threshold, start) in enumerate(steps):
            watches.append(
                Watch(
                    key=f"{rule.name}+{number}@{version}" if number else f"{rule.name}@{version}",
                    rule=rule,
                    counts=rule.counts,
                    threshold=threshold,
                    start=rules.start_rung(rule, start),
                    window_ms=rule.window_ms,
                    width_ms=measure_width_ms(rule.window_ms),
                    most_admitted=rule.most_admitted,
                    cool_down_ms=rule.cool_down or 0,
                )
            )
    return tuple(watches)
