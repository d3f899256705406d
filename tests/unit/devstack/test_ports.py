from __future__ import annotations

import pytest

from devstack import ports
from devstack.ports import PortChooser


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The ports that count as free."""
    there: set[int] = set()
    monkeypatch.setattr(ports, "is_free", there.__contains__)
    return there


def test_the_usual_port_is_taken_when_it_is_free(free: set[int]) -> None:
    free.add(6379)
    assert PortChooser().choose(6379) == 6379


def test_another_port_is_taken_when_the_usual_one_is_not_free(free: set[int]) -> None:
    free |= set(ports.FREE_RANGE)
    assert PortChooser().choose(6379) in ports.FREE_RANGE


def test_no_port_is_given_twice(free: set[int]) -> None:
    free |= {6379, *ports.FREE_RANGE[:50]}
    chooser = PortChooser()
    given = [chooser.choose(6379) for _ in range(51)]
    assert len(set(given)) == 51


def test_chosen_ports_are_never_those_of_outgoing_connections() -> None:
    assert max(ports.FREE_RANGE) < 32768
