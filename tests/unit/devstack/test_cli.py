from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from devstack import cli
from devstack.kafka_broker import Node
from devstack.layout import Addresses, StackSpec
from devstack.process import ServiceState
from devstack.state import ProcessId, StackState

STATE = StackState(
    supervisor=ProcessId(pid=1, started_at_s=0),
    spec=StackSpec(),
    addresses=Addresses(redis_port=1, nodes=(Node(1, 2, 3),)),
    services=(
        ServiceState(name="redis", status="ready", log=Path("redis.log"), pid=7, ready_after_s=0.1),
        ServiceState(name="kafka", status="exited", log=Path("kafka.log"), exit_code=-9, restarts=2),
    ),
    phase="ready",
)


def test_a_script_reads_addresses_and_readiness_of_every_part() -> None:
    told = cli._as_json(STATE, {"redis": True, "kafka": False}, is_ready=False)
    assert told["addresses"] == {"redis_url": "redis://127.0.0.1:1/0", "kafka_bootstrap": "127.0.0.1:2"}
    assert told["services"]["redis"]["is_ready"] is True
    assert told["services"]["kafka"] == {
        "address": "127.0.0.1:2",
        "is_ready": False,
        "status": "exited",
        "pid": None,
        "restarts": 2,
        "ready_after_s": None,
        "log": "kafka.log",
    }


def test_a_stack_that_is_not_up_has_the_same_keys() -> None:
    assert (
        cli._as_json(None, {}, is_ready=False).keys()
        <= cli._as_json(STATE, {"redis": True, "kafka": True}, is_ready=True).keys()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "redis,rabbit"], "'redis', 'kafka' or 'envoy'"),
        (["--only", "kafka", "--replica"], "a replica needs the part redis"),
        (["--brokers", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["up", *options])
    assert result.exit_code == 1
    assert message in result.stderr
