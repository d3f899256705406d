"""Explicit batches."""

from __future__ import annotations

import grpc
import pytest

from enforcer.client.decision import Decision
from enforcer.client.exchange import Asked, Exchange
from enforcer.client.many import begin_many, name_position
from enforcer.limits.check import Check, InvalidCheck
from tests.unit.enforcer.client.answers import denied, limit
from tests.unit.enforcer.client.failures import make_error


@pytest.fixture
def exchange() -> Exchange:
    """One that remembers a denial of alice."""
    exchange = Exchange({"*": "deny"})
    asked = exchange.begin(Check("alice", "login"))
    assert isinstance(asked, Asked)
    exchange.finish(asked, denied(limit(refused=True), retry_after_ms=60_000))
    return exchange


def test_what_is_remembered_is_not_sent(exchange: Exchange) -> None:
    begun = begin_many(exchange, [Check("bob", "login"), Check("alice", "login"), Check("carol", "login")])
    assert [type(one) for one in begun] == [Asked, Decision, Asked]


def test_a_bad_check_is_named_and_too_many_are_refused(exchange: Exchange) -> None:
    with pytest.raises(InvalidCheck, match=r"checks\[1\]: user_id is empty"):
        begin_many(exchange, [Check("bob", "login"), Check("", "login")])
    with pytest.raises(InvalidCheck, match="checks has 1001 entries; at most 1000 are allowed"):
        begin_many(exchange, [Check("bob", "login")] * 1001)


def test_what_an_enforcer_names_is_named_by_its_place_among_the_callers_checks(exchange: Exchange) -> None:
    begun = begin_many(exchange, [Check("alice", "login"), Check("bob", "login"), Check("carol", "login")])
    with pytest.raises(InvalidCheck) as refused:
        name_position(make_error(grpc.StatusCode.INVALID_ARGUMENT, "checks[1]: cost is 9"), begun)
    assert str(refused.value) == "checks[2]: cost is 9"
    with pytest.raises(InvalidCheck, match=r"checks\[7\]: odd"):
        name_position(make_error(grpc.StatusCode.INVALID_ARGUMENT, "checks[7]: odd"), begun)


def test_other_errors_are_not_about_a_check(exchange: Exchange) -> None:
    name_position(make_error(grpc.StatusCode.UNAVAILABLE, "checks[1]"), [])
