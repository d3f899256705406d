from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError
from pathlib import Path

import pytest

from devstack.errors import DevstackError
from devstack.process import Service, Supervisor, passes


async def yes() -> bool:
    return True


async def refused() -> bool:
    raise ConnectionRefusedError


def service(name: str, after: Iterable[str] = ()) -> Service:
    return Service(name=name, argv=["program"], is_ready=yes, after=tuple(after))


def test_what_is_needed_starts_first() -> None:
    supervisor = Supervisor([service("c", "ab"), service("b", "a"), service("a")], logs=Path("logs"))
    assert supervisor._levels == [("a",), ("b",), ("c",)]


def test_what_does_not_depend_on_each_other_starts_together() -> None:
    supervisor = Supervisor([service("b"), service("a"), service("c", "ab")], logs=Path("logs"))
    assert [sorted(level) for level in supervisor._levels] == [["a", "b"], ["c"]]


def test_a_service_after_one_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DevstackError, match="'a' comes after 'b'"):
        Supervisor([service("a", "b")], logs=Path("logs"))


def test_services_that_wait_for_each_other_are_an_error() -> None:
    with pytest.raises(CycleError):
        Supervisor([service("a", "b"), service("b", "a")], logs=Path("logs"))


async def test_a_name_that_is_not_there_is_an_error_that_tells_those_that_are() -> None:
    with pytest.raises(DevstackError, match=r"no service 'c'\. There are: a, b\."):
        await Supervisor([service("a"), service("b")], logs=Path("logs")).kill("c")


async def test_a_refused_connection_is_not_ready_rather_than_an_error() -> None:
    assert await passes(yes)
    assert not await passes(refused)


def test_before_the_start_everything_waits() -> None:
    (state,) = Supervisor([service("a")], logs=Path("logs")).states()
    assert (state.status, state.pid, state.restarts, state.log) == ("waiting", None, 0, Path("logs/a.log"))
