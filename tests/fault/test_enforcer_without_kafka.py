"""Kafka is away: decisions do not wait for it, and every event arrives when it comes."""

from __future__ import annotations

from pathlib import Path

from devstack.stack import StackSpec, start
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import poll, read_topic, run_enforcer
from topics.events import DecisionEvent, FoldsEvent, GapEvent
from topics.specs import DECISIONS, DENIALS


def test_start_without_kafka_decides_and_events_arrive_when_it_comes(redis_url: str, tmp_path: Path) -> None:
    with start(StackSpec(parts=frozenset({"kafka"}))) as stack:
        (kafka,) = (state.name for state in stack.states())
        stack.kill(kafka)
        with run_enforcer(redis_url, stack.kafka_bootstrap, tmp_path, "--redis-timeout-ms", "1000") as enforcer:
            enforcer.wait_for_redis()
            answers = [enforcer.check("without-kafka") for _ in range(8)]
            assert [answer.outcome for answer in answers].count(enforcer_pb2.OUTCOME_ALLOW) == 5
            assert enforcer.wait_for_line("kafka_unreachable")["events"] == "are buffered"
            assert enforcer.read_metric("ratchet_kafka_connected") == 0
            assert enforcer.read_metric("ratchet_events_buffered") == 8
            stack.restart(kafka)
            enforcer.wait_for_kafka()
            poll(lambda: enforcer.read_metric("ratchet_events_acknowledged_total") == 8, "all events in Kafka")
            assert enforcer.read_metric("ratchet_events_buffered") == 0
            assert enforcer.stop() == 0
            source = enforcer.source
        events = [event for _, event in read_topic(stack.kafka_bootstrap, DECISIONS.name, source)]
        assert sorted(event.seq for event in events if isinstance(event, DecisionEvent)) == list(range(1, 9))
        assert not [event for event in events if isinstance(event, GapEvent)]
        denials = [event for _, event in read_topic(stack.kafka_bootstrap, DENIALS.name, source)]
        assert sum(fold.count for event in denials if isinstance(event, FoldsEvent) for fold in event.folds) == 3
