"""The servers and the client that the smoke test is made of, for real."""

import os

import pytest

from bench.floor import FloorTransport
from bench.servers import Serving, run_floor
from bench.smoke import SmokeFailed, measure_us
from devstack.ports import PortChooser


@pytest.mark.parametrize("transport", ["native", "front", "grpcio"])
def test_an_empty_handler_answers_every_call_and_its_cpu_is_seen(transport: FloorTransport) -> None:
    with run_floor(transport) as serving:
        assert measure_us(serving, 300) > 0


def test_calls_that_nobody_answers_are_no_measurement() -> None:
    nobody = Serving(f"127.0.0.1:{PortChooser().choose()}", os.getpid())
    with pytest.raises(SmokeFailed, match="UNAVAILABLE"):
        measure_us(nobody, 10)
