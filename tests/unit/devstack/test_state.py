from __future__ import annotations

from pathlib import Path

from devstack.kafka_broker import Node
from devstack.layout import Addresses, StackSpec
from devstack.process import ServiceState
from devstack.state import ProcessId, StackState


def test_a_state_is_read_as_it_was_written() -> None:
    state = StackState(
        supervisor=ProcessId(pid=1, started_at_s=2.5),
        spec=StackSpec(brokers=3, cluster=True),
        addresses=Addresses(redis_port=1, cluster_ports={2: 3}, nodes=(Node(1, 4, 5),)),
        services=(ServiceState(name="redis", status="ready", log=Path("redis.log"), pid=7, ready_after_s=0.1),),
        processes=(ProcessId(pid=7, started_at_s=3.5),),
        phase="ready",
    )
    assert StackState.model_validate_json(state.model_dump_json()) == state
