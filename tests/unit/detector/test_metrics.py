from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from config.document import read_document
from detector.metrics import Metrics
from detector.rules import Rules

RULES = read_document(Path("config/rules.yaml"), Rules).model


def list_series(registry: CollectorRegistry) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {(sample.name, tuple(sample.labels.items())) for metric in registry.collect() for sample in metric.samples}


def test_all_series_stand_before_the_first_record() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, RULES)
    before = list_series(registry)
    metrics.verdicts.labels("brute_force", "applied").inc()
    metrics.records.labels("folds").inc()
    metrics.late.labels("brute_force").inc()
    assert list_series(registry) == before


def test_every_series_is_documented() -> None:
    registry = CollectorRegistry()
    Metrics(registry, RULES)
    text = Path("docs/detection.md").read_text()
    for metric in registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        assert f"`{name}`" in text


def test_series_of_new_rules_appear_at_once_and_the_version_is_that_in_force() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, RULES)
    renamed = RULES.rules[0].model_copy(update={"name": "renamed"})
    metrics.show_rules(RULES.model_copy(update={"rules": (renamed,)}))
    series = list_series(registry)
    assert ("ratchet_detector_denials_total", (("rule", "renamed"),)) in series
    assert [labels for name, labels in series if name == "ratchet_detector_rules_info"] == [(("version", RULES.digest),)]
