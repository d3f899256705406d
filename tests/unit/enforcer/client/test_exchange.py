"""What is asked, and what stands in for an answer that does not come."""

from __future__ import annotations

import grpc
import pytest

from enforcer.client.decision import Decision
from enforcer.client.denials import Denials
from enforcer.client.errors import NoDecision, NotPermitted
from enforcer.client.exchange import Asked, Exchange, compile_choices
from enforcer.limits.check import Check, InvalidCheck
from ratchet.v1 import enforcer_pb2
from tests.unit.enforcer.client.answers import allowed, denied, limit
from tests.unit.enforcer.client.failures import make_error

CODE = grpc.StatusCode
NO_TEXT = "user_id or an attribute is no text: it holds half of a character (a lone surrogate)"


def ask(exchange: Exchange, *args: object) -> Asked:
    asked = exchange.begin(Check(*args))  # type: ignore[arg-type]
    assert isinstance(asked, Asked)
    return asked


def test_a_choice_is_for_all_actions_or_for_each_and_the_rest() -> None:
    assert compile_choices("allow") == {"*": "allow"}
    assert compile_choices({"login": "deny", "*": "raise"}) == {"login": "deny", "*": "raise"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("open", "without_enforcer: 'open' for action '\\*'; allow, deny and raise are allowed"),
        ({"login": "", "*": "deny"}, "without_enforcer: '' for action 'login'; allow, deny and raise are allowed"),
        ({"login": "deny"}, 'without_enforcer: name a choice for "\\*", the actions that are not named'),
    ],
)
def test_a_choice_that_leaves_something_open_is_refused(choice: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_choices(choice)  # type: ignore[arg-type]


def test_the_message_says_what_was_asked() -> None:
    exchange = Exchange({"*": "deny"})
    assert ask(exchange, "alice", "login", 1, {"ip": "::1"}).request == enforcer_pb2.CheckRequest(
        user_id="alice", action="login", attributes={"ip": "::1"}
    )
    assert ask(exchange, "alice", "login", 0).request.cost == 0
    assert ask(exchange, "alice", "login", 0).request.HasField("cost")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (("", "login"), "user_id is empty; 1 to 1024 bytes are allowed"),
        (("a", "log in"), "action 'log in' is not 1 to 128 printable ASCII characters without spaces"),
        (("a", "login", -1), "cost is -1; whole tokens >= 0 are allowed"),
        (("\udc80", "login"), NO_TEXT),
        (
            ("a", "login", 1, {"ip": "\udc80"}),
            "user_id or an attribute is no text: it holds half of a character (a lone surrogate)",
        ),
    ],
)
def test_content_out_of_bounds_is_not_even_sent(check: tuple[object, ...], message: str) -> None:
    with pytest.raises(InvalidCheck) as refused:
        Exchange({"*": "allow"}).begin(Check(*check))  # type: ignore[arg-type]
    assert str(refused.value) == message


def test_a_denial_is_answered_from_memory_and_its_count_travels_with_the_next_call() -> None:
    exchange = Exchange({"*": "deny"})
    first = ask(exchange, "alice", "login", 2)
    refused = limit(refused=True, retry_after_ms=60_000)
    assert not exchange.finish(first, denied(refused, retry_after_ms=60_000)).is_remembered
    remembered = exchange.begin(Check("alice", "login", 2))
    assert isinstance(remembered, Decision)
    assert remembered.is_remembered
    assert ask(exchange, "alice", "login", 0).request.suppressed == 0  # a peek is not emitted
    cheaper = ask(exchange, "alice", "login").request
    assert (cheaper.suppressed, list(cheaper.suppressed_limits)) == (1, ["login:per_user"])
    assert ask(exchange, "alice", "login").request.suppressed == 0


def test_without_memory_every_check_is_sent() -> None:
    exchange = Exchange({"*": "deny"}, None)
    exchange.finish(ask(exchange, "alice", "login"), denied(limit(refused=True), retry_after_ms=60_000))
    assert isinstance(exchange.begin(Check("alice", "login")), Asked)


def test_a_denied_peek_is_not_kept() -> None:
    exchange = Exchange({"*": "deny"})
    exchange.finish(ask(exchange, "alice", "login", 0), denied(limit(refused=True), retry_after_ms=60_000))
    assert isinstance(exchange.begin(Check("alice", "login")), Asked)


@pytest.mark.parametrize("choice", ["allow", "deny", "raise"])
def test_an_invalid_check_never_passes(choice: str) -> None:
    exchange = Exchange(compile_choices(choice))  # type: ignore[arg-type]
    with pytest.raises(InvalidCheck, match="as told"):
        exchange.fail(ask(exchange, "alice", "login"), make_error(CODE.INVALID_ARGUMENT))


@pytest.mark.parametrize("choice", ["allow", "deny", "raise"])
@pytest.mark.parametrize("code", [CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED])
def test_a_client_that_may_not_ask_never_fails_open(choice: str, code: CODE) -> None:
    exchange = Exchange(compile_choices(choice))  # type: ignore[arg-type]
    with pytest.raises(NotPermitted, match=f"{code.name.lower().replace('_', ' ')}: as told"):
        exchange.fail(ask(exchange, "alice", "login"), make_error(code))


OTHERS = sorted(set(CODE) - {CODE.OK, CODE.INVALID_ARGUMENT, CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED}, key=str)


@pytest.mark.parametrize("code", OTHERS)
def test_where_there_is_no_decision_the_choice_of_the_action_decides(code: CODE) -> None:
    exchange = Exchange(compile_choices({"login": "deny", "pay": "raise", "*": "allow"}))
    why = code.name.lower().replace("_", " ")
    closed = exchange.fail(ask(exchange, "alice", "login"), make_error(code))
    assert (closed.outcome, closed.reason, closed.failure) == ("deny", "no_decision", why)
    opened = exchange.fail(ask(exchange, "alice", "search"), make_error(code))
    assert opened.outcome == ("deny" if code is CODE.RESOURCE_EXHAUSTED else "allow")
    with pytest.raises(NoDecision) as raised:
        exchange.fail(ask(exchange, "alice", "pay"), make_error(code))
    assert (raised.value.why, str(raised.value)) == (why, f"no decision: {why}: as told")


def test_memory_holds_nothing_of_what_was_allowed() -> None:
    memory = Denials()
    exchange = Exchange({"*": "deny"}, memory)
    assert exchange.finish(ask(exchange, "alice", "login"), allowed(limit(remaining=4))).is_allowed
    assert isinstance(exchange.begin(Check("alice", "login")), Asked)
