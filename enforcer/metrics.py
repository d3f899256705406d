"""What Prometheus reads. Counters are plain integers of the decision path, turned into metrics when somebody asks.

Every series has a fixed set of labels: none grows with users, actions or addresses.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from enforcer.calls.access import Access
from enforcer.calls.decider import Decider
from enforcer.calls.tls import Tls
from enforcer.envoy.quota_keeper import QuotaKeeper
from enforcer.reload.in_force import InForce


class EnforcerCollector(Collector):
    """Reads the counts of one decider, and of who may ask it."""

    def __init__(self, decider: Decider, in_force: InForce, access: Access, tls: Tls | None = None) -> None:
        self._decider, self._in_force, self._access, self._tls = decider, in_force, access, tls

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the enforcer."""
        decider, store, emitter = self._decider, self._decider.store, self._decider.emitter
        decisions = CounterMetricFamily("ratchet_decisions", "Decisions by outcome and reason.", labels=["outcome", "reason"])
        for (outcome, reason), count in sorted(decider.counts.items()):
            decisions.add_metric([outcome, reason], count)
        yield decisions
        refused = CounterMetricFamily("ratchet_refused_calls", "Calls of nobody who may make them.", labels=["code"])
        for code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            refused.add_metric([code], self._access.refused[code])
        yield refused
        for name, text, value in (
            ("ratchet_degraded_decisions", "Decisions that were made without Redis.", decider.degraded),
            ("ratchet_shadow_refusals", "Decisions that a limit in shadow mode would have refused.", decider.shadowed),
            ("ratchet_failed_calls", "Calls that a fault of the enforcer's ended without a decision.", decider.failed_calls),
            ("ratchet_access_rejected", "Access documents that were bad, and not taken over.", self._access.rejected),
            (
                "ratchet_certificates_rejected",
                "Renewed certificates that were bad, and not taken over.",
                0 if self._tls is None else self._tls.rejected,
            ),
            ("ratchet_cached_refusals", "Refusals answered from memory.", decider.refusals.hits),
            ("ratchet_redis_calls", "Script calls; decisions divided by this is how many share one.", store.stats.calls),
            ("ratchet_redis_checks", "Checks sent to Redis.", store.stats.checks),
            ("ratchet_redis_timeouts", "Script calls that were given up at their deadline.", store.stats.timeouts),
            ("ratchet_redis_late", "Script calls that reached Redis after their deadline and took nothing.", store.stats.late),
            ("ratchet_redis_errors", "Script calls that Redis refused.", store.stats.errors),
            ("ratchet_redis_failed_checks", "Checks that failed by themselves on Redis.", store.stats.failed_checks),
            ("ratchet_redis_connections", "Connections made to Redis.", store.stats.reconnects),
            ("ratchet_script_loads", "Times the script was loaded.", store.stats.reloads),
            ("ratchet_events_offered", "Decisions given to emission.", emitter.stats.offered),
            ("ratchet_events_acknowledged", "Decisions that Kafka has.", emitter.stats.acknowledged),
            ("ratchet_events_dropped", "Decisions dropped and announced as a gap.", emitter.stats.dropped),
            ("ratchet_events_spooled", "Decisions moved to disk while Kafka was away.", emitter.stats.spooled),
            ("ratchet_folds", "Folds sent to the detector.", emitter.stats.folds),
            ("ratchet_uncounted_refusals", "Refusals that no fold was left for.", emitter.folder.uncounted),
            ("ratchet_outcome_reports", "Reports of backends that were taken.", emitter.outcomes.reports),
            ("ratchet_outcomes_dropped", "Reports of backends that were dropped again.", emitter.outcomes.dropped),
            ("ratchet_kafka_failures", "Times a batch was not acknowledged.", emitter.stats.failures),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("ratchet_redis_available", "1 while Redis answers in time.", value=store.is_available)
        yield GaugeMetricFamily("ratchet_kafka_connected", "1 while a producer stands.", value=emitter.kafka.is_connected)
        yield GaugeMetricFamily("ratchet_events_buffered", "Decisions that Kafka does not have yet.", value=emitter.buffered)
        spool_bytes = emitter.spool.size_bytes if emitter.spool is not None else 0
        yield GaugeMetricFamily("ratchet_spool_bytes", "What the spool holds on disk.", value=spool_bytes)
        policies = InfoMetricFamily("ratchet_policies", "The policies document in force.")
        in_force = self._in_force
        policies.add_metric([], {"version": in_force.version, "generation": str(in_force.generation.number)})
        yield policies
        yield CounterMetricFamily("ratchet_policies_rejected", "Policies that were refused.", value=in_force.rejections)
        yield GaugeMetricFamily("ratchet_overrides", "Subjects with overrides made at run time.", value=in_force.overrides)
        yield GaugeMetricFamily("ratchet_enforcers", "Enforcer processes that were last seen alive.", value=in_force.enforcers)


class QuotaCollector(Collector):
    """Reads what data planes were assigned and what they reported."""

    def __init__(self, quotas: QuotaKeeper) -> None:
        self._quotas = quotas

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of quotas."""
        quotas, stats = self._quotas, self._quotas.stats
        requests = CounterMetricFamily(
            "ratchet_quota_requests", "Requests that data planes decided by quota.", labels=["outcome"]
        )
        requests.add_metric(["allow"], stats.allowed)
        requests.add_metric(["deny"], stats.denied)
        yield requests
        for name, text, value in (
            ("ratchet_quota_reports", "Reports of a bucket's use.", stats.reports),
            ("ratchet_quota_unreadable_reports", "Reports of a bucket without an id that is text, left out.", stats.unreadable),
            ("ratchet_quota_assignments", "Assignments told to data planes.", stats.assignments),
            ("ratchet_quota_abandoned", "Buckets that data planes were told to forget.", stats.abandoned),
            ("ratchet_quota_refused_streams", "Streams refused because too many were open.", stats.refused_streams),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("ratchet_quota_streams", "Data planes that are connected.", value=len(quotas.streams))
        yield GaugeMetricFamily("ratchet_quota_buckets", "Buckets of data planes that are assigned quotas.", value=len(quotas))


def build_registry(
    decider: Decider, in_force: InForce, quotas: QuotaKeeper, access: Access, tls: Tls | None = None
) -> CollectorRegistry:
    """Build the registry of one enforcer process."""
    registry = CollectorRegistry()
    registry.register(EnforcerCollector(decider, in_force, access, tls))
    registry.register(QuotaCollector(quotas))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
