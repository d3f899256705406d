"""What both clients share: what is asked, what an answer means, and what stands in for one that does not come. No IO."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import grpc

from enforcer.client.decision import Decision, read_decision
from enforcer.client.denials import Denials, Key, make_key
from enforcer.client.errors import NoDecision, NotPermitted
from enforcer.limits.check import Check, InvalidCheck, validate_check
from ratchet.v1 import enforcer_pb2

WithoutEnforcer = Literal["allow", "deny", "raise"]
"""What becomes of a request when the enforcer gives no decision: fail open, fail closed, or ``NoDecision``."""

ANY_ACTION = "*"
TIMEOUT_S = 0.05
"""For one decision. An enforcer answers within 15 ms even without Redis; the rest is for the network and for a backend whose
event loop is busy. Longer, and the users of a backend would feel a limiter that is in trouble."""
REPORT_EVERY_S = 1.0
REPORT_TIMEOUT_S = 1.0

_CHOICES = ("allow", "deny", "raise")
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@dataclass(frozen=True, slots=True)
class Asked:
    """One check on its way to the enforcer."""

    request: enforcer_pb2.CheckRequest
    key: Key
    cost: int
    sent_s: float
    """On the monotonic clock, before the call."""


def compile_choices(choice: WithoutEnforcer | Mapping[str, WithoutEnforcer]) -> dict[str, WithoutEnforcer]:
    """Check what stands in for a decision, for all actions or for each.

    Raises:
        ValueError: Something else was given, or nothing for the actions that are not named.
    """
    choices: dict[str, WithoutEnforcer] = {ANY_ACTION: choice} if isinstance(choice, str) else dict(choice)
    for action, chosen in choices.items():
        if chosen not in _CHOICES:
            raise ValueError(f"without_enforcer: {chosen!r} for action {action!r}; allow, deny and raise are allowed")
    if ANY_ACTION not in choices:
        raise ValueError('without_enforcer: name a choice for "*", the actions that are not named')
    return choices


@dataclass(slots=True)
class Exchange:
    """Turns checks into messages and answers into decisions."""

    choices: Mapping[str, WithoutEnforcer]
    denials: Denials | None = field(default_factory=Denials)
    """None: every check is sent."""

    def begin(self, check: Check) -> Asked | Decision:
        """Answer a check from memory, or say what to send.

        Raises:
            InvalidCheck: Content out of bounds. Nothing was asked; never let the request pass because of it.
        """
        try:
            validate_check(check.user_id, check.action, check.cost, check.attributes)
        except UnicodeEncodeError as error:
            raise InvalidCheck("user_id or an attribute is no text: it holds half of a character (a lone surrogate)") from error
        now_s = time.monotonic()
        key = make_key(check.user_id, check.action, check.attributes)
        suppressed = 0
        limits: tuple[str, ...] = ()
        if self.denials is not None and check.cost > 0:
            remembered = self.denials.find(key, check.cost, now_s)
            if remembered is not None:
                return remembered
            suppressed, limits = self.denials.take_suppressed(key, now_s)
        request = enforcer_pb2.CheckRequest(
            user_id=check.user_id,
            action=check.action,
            attributes=check.attributes,
            suppressed=suppressed,
            suppressed_limits=limits,
        )
        if check.cost != 1:
            request.cost = check.cost
        return Asked(request, key, check.cost, now_s)

    def finish(self, asked: Asked, response: enforcer_pb2.CheckResponse) -> Decision:
        """Read one answer, and remember it where it is a denial that is certain for a while."""
        decision = read_decision(response, asked.cost, time.time_ns() // 1_000_000)
        if self.denials is not None and decision.outcome == "deny" and asked.cost > 0:
            self.denials.remember(asked.key, decision, asked.sent_s)
        return decision

    def fail(self, asked: Asked, error: grpc.RpcError) -> Decision:
        """Say what stands in for an answer that did not come.

        Raises:
            InvalidCheck: The enforcer found the check out of bounds.
            NotPermitted: The enforcer does not let this client ask.
            NoDecision: ``without_enforcer`` says ``raise``.
        """
        code, detail = read_status(error)
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            raise InvalidCheck(detail) from error
        if code in _REFUSALS:
            raise NotPermitted(f"{name_status(code)}: {detail}") from error
        why = name_status(code)
        choice = self.choices.get(asked.key[1]) or self.choices[ANY_ACTION]
        if choice == "raise":
            raise NoDecision(why, detail) from error
        # The enforcer was reached and wants less of this client: passing would turn limiting off by asking for much.
        outcome = "deny" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else choice
        return Decision(outcome, "no_decision", asked.cost, time.time_ns() // 1_000_000, failure=why)


def read_status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Status and detail of a failed call; grpcio's errors are calls, although their type does not say so."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)  # noqa: S101 see above
    return error.code(), error.details() or ""


def name_status(code: grpc.StatusCode) -> str:
    """Status in lower-case words."""
    return code.name.lower().replace("_", " ")
