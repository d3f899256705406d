"""What is told to Prometheus, and that all of it is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest

from enforcer.calls.access import Access
from enforcer.calls.decider import Decider
from enforcer.decisions.fallback import Fallback
from enforcer.decisions.planner import Planner
from enforcer.decisions.refusals import Refusals
from enforcer.envoy.quota_keeper import QuotaKeeper
from enforcer.events.emission import Emitter
from enforcer.events.folding import Folder
from enforcer.events.producer import KafkaLog
from enforcer.metrics import EnforcerCollector, QuotaCollector, build_registry
from enforcer.reload.in_force import InForce
from enforcer.stores.quota_store import QuotaStore
from enforcer.stores.store import RedisStore
from tests.unit.enforcer.builders import POLICIES_IN_FORCE

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
_SUFFIXES = {"counter": "_total", "gauge": "", "info": "_info"}


@pytest.fixture
def decider() -> Decider:
    """One that was never started: counts are zero."""
    emitter = Emitter("tested/0/ab", KafkaLog("127.0.0.1:1", "tested"), Folder())
    return Decider(Planner(POLICIES_IN_FORCE), RedisStore("redis://127.0.0.1:1"), Refusals(), Fallback(2), emitter)


@pytest.fixture
def in_force(decider: Decider) -> InForce:
    return InForce(decider, Path("policies.yaml"))


def list_metrics(decider: Decider, in_force: InForce, quotas: QuotaKeeper) -> list[Metric]:
    return [*EnforcerCollector(decider, in_force, Access()).collect(), *QuotaCollector(quotas).collect()]


@pytest.fixture
def quotas(decider: Decider) -> QuotaKeeper:
    return QuotaKeeper(decider, QuotaStore("redis://127.0.0.1:1", "tested/0/ab"))


def test_every_metric_is_documented_with_its_type_and_no_other_is(
    decider: Decider, in_force: InForce, quotas: QuotaKeeper
) -> None:
    section = PAGE.read_text().split("\n## Enforcer\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(ratchet_\w+)` \| (\w+) \| (\S)", section, re.MULTILINE)
    told = [(metric.name + _SUFFIXES[metric.type], metric.type) for metric in list_metrics(decider, in_force, quotas)]
    assert sorted((name, kind) for name, kind, _ in documented) == sorted(told)


def test_every_metric_of_the_detector_is_documented_and_no_other_is() -> None:
    source = (PAGE.parents[1] / "detector" / "metrics.py").read_text()
    section = PAGE.read_text().split("\n## Detector\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(ratchet_detector_\w+)` \| (\w+) \|", section, re.MULTILINE)
    made = re.findall(r"(Counter|Gauge|Histogram|Info)\(\s*\"(ratchet_detector_\w+)\"", source)
    told = [(name + _SUFFIXES.get(kind.lower(), ""), kind.lower()) for kind, name in made]
    assert sorted(documented) == sorted(told)


def test_every_metric_says_what_it_counts(decider: Decider, in_force: InForce, quotas: QuotaKeeper) -> None:
    for metric in list_metrics(decider, in_force, quotas):
        assert metric.documentation.endswith(".")


def test_decisions_are_counted_by_outcome_and_reason_alone(decider: Decider, in_force: InForce, quotas: QuotaKeeper) -> None:
    decider.counts["deny", "limit"] = 3
    text = generate_latest(build_registry(decider, in_force, quotas, Access())).decode()  # type: ignore[no-untyped-call]
    assert 'ratchet_decisions_total{outcome="deny",reason="limit"} 3.0\n' in text
    assert f'ratchet_policies_info{{generation="0",version="{POLICIES_IN_FORCE.version}"}} 1.0\n' in text
