"""The detector's metrics. Labels are rules, results and kinds of records: series never grow with traffic."""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from detector.rules import Rules
from topics.events import VerdictResult

RECORD_KINDS = ("folds", "heartbeat", "closed", "reread", "doubled", "undecodable", "failed")
RESULTS = (*get_args(VerdictResult), "repeat", "refused")
_DELAYS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class Metrics:
    """All series of one detector, in one registry."""

    def __init__(self, registry: CollectorRegistry, rules: Rules) -> None:
        self.records = Counter("ratchet_detector_records", "Records of topic denials, by kind.", ["kind"], registry=registry)
        self.denials = Counter("ratchet_detector_denials", "Denials counted, by rule.", ["rule"], registry=registry)
        self.late = Counter(
            "ratchet_detector_late_denials", "Denials older than the window, dropped, by rule.", ["rule"], registry=registry
        )
        self.ahead = Counter(
            "ratchet_detector_ahead_denials",
            "Denials dated over 5 s ahead of the broker's clock, counted as of its time.",
            registry=registry,
        )
        self.verdicts = Counter(
            "ratchet_detector_verdicts", "Offences, by rule and by what came of them.", ["rule", "result"], registry=registry
        )
        self.missing = Counter(
            "ratchet_detector_missing_records",
            "Records whose number was skipped: denials that nobody counts.",
            registry=registry,
        )
        self.evicted = Counter("ratchet_detector_evicted_subjects", "Subjects forgotten for lack of room.", registry=registry)
        self.subjects = Gauge("ratchet_detector_subjects", "Subjects that are remembered.", registry=registry)
        self.partitions = Gauge(
            "ratchet_detector_partitions", "Partitions of denials that this process reads.", registry=registry
        )
        self.throttled = Gauge(
            "ratchet_detector_throttled_actions", "Actions whose limits this process lowers.", registry=registry
        )
        self.lag = Gauge("ratchet_detector_lag_records", "Records of denials that are not handled yet.", registry=registry)
        self.is_waiting = Gauge("ratchet_detector_waiting", "1 while Redis or Kafka is waited for.", registry=registry)
        self.flush_seconds = Histogram(
            "ratchet_detector_flush_seconds", "Time to write state and commit.", registry=registry, buckets=_DELAYS_S
        )
        self.delay_seconds = Histogram(
            "ratchet_detector_delay_seconds",
            "From the denial that crossed a rule to the change in Redis.",
            registry=registry,
            buckets=_DELAYS_S,
        )
        self.rules = Info("ratchet_detector_rules", "The rules document in force.", registry=registry)
        self.rules_rejected = Counter(
            "ratchet_detector_rules_rejected", "Rules that were refused; those before stayed in force.", registry=registry
        )
        # All series stand from the first scrape, so that a rate over one that was never seen is 0 and not absent.
        for kind in RECORD_KINDS:
            self.records.labels(kind)
        self.show_rules(rules)

    def show_rules(self, rules: Rules) -> None:
        """Show other rules as those in force; their series stand at once, and those of rules that are gone stay."""
        self.rules.info({"version": rules.digest})
        for rule in rules.rules:
            self.denials.labels(rule.name)
            self.late.labels(rule.name)
            for result in RESULTS:
                self.verdicts.labels(rule.name, result)
