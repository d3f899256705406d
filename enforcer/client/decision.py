"""The enforcer's answer as a backend sees it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enforcer.client import headers
from ratchet.v1 import enforcer_pb2

Outcome = Literal["allow", "deny", "ban"]
Reason = Literal["ok", "limit", "banned", "throttled", "open", "no_decision"]

_OUTCOMES: dict[int, Outcome] = {enforcer_pb2.OUTCOME_ALLOW: "allow", enforcer_pb2.OUTCOME_BAN: "ban"}
_REASONS: dict[int, Reason] = {
    enforcer_pb2.REASON_OK: "ok",
    enforcer_pb2.REASON_BANNED: "banned",
    enforcer_pb2.REASON_THROTTLED: "throttled",
    enforcer_pb2.REASON_OPEN: "open",
}
_STATUS = {"allow": 200, "deny": 429, "ban": 403}


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One limit after this check. Amounts are whole tokens, waits milliseconds from the answer on."""

    policy: str
    name: str
    capacity: int
    remaining: int
    retry_after_ms: int
    """Until this cost could pass; 0 when it passed."""
    reset_after_ms: int
    """Until the bucket is full."""
    is_refused: bool
    is_shadow: bool
    """It never refuses for real."""

    @property
    def label(self) -> str:
        """Policy and name, which together are unique."""
        return f"{self.policy}:{self.name}"


@dataclass(frozen=True, slots=True)
class Ban:
    """A ban in force. Instants are milliseconds since the Unix epoch on the Redis server's clock."""

    until_ms: int
    scope: tuple[str, ...]
    """Globs of the actions that it covers."""
    level: int
    rule: str
    """Empty for a ban imposed by a person."""
    verdict_id: str
    subject: str
    """Who is banned, as ``kind=value``."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning in force: the subject stands one rung below a ban."""

    until_ms: int
    rule: str
    verdict_id: str
    subject: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one request."""

    outcome: Outcome
    """``allow``: serve it. ``deny``: refuse it for now. ``ban``: refuse it until ``ban.until_ms``."""
    reason: Reason
    """``no_decision``: the enforcer gave none, and ``without_enforcer`` decided; ``failure`` says why."""
    cost: int = 1
    received_ms: int = 0
    """When the answer came, on this process's clock; only for the instants in ``problem``."""
    policy: str = ""
    policy_version: str = ""
    limits: tuple[LimitStatus, ...] = ()
    """Those that applied, in the policy's order."""
    retry_after_ms: int = 0
    """Longest wait among the limits that refused; 0 when allowed; until the end of a ban."""
    ban: Ban | None = None
    warned: Warned | None = None
    is_shadow: bool = False
    """A limit in shadow mode would have refused."""
    is_degraded: bool = False
    """Decided without Redis."""
    is_cached: bool = False
    """Answered from the enforcer's memory of a refusal."""
    is_remembered: bool = False
    """Answered from this client's memory of a denial; no call was made."""
    factor_per_mille: int = 1000
    failure: str = ""
    """Why there is no decision: the gRPC status in lower-case words; empty otherwise."""

    @property
    def is_allowed(self) -> bool:
        """Whether to serve the request."""
        return self.outcome == "allow"

    @property
    def http_status(self) -> int:
        """200 serve it, 429 refused for now, 403 banned, 503 refused because there is no decision."""
        return 503 if self.failure and not self.is_allowed else _STATUS[self.outcome]

    @property
    def headers(self) -> dict[str, str]:
        """Headers to set on the response, whatever its status ends up as (:mod:`enforcer.client.headers`)."""
        return headers.list_headers(self)

    @property
    def problem(self) -> dict[str, object] | None:
        """Body of a refusal, to send as ``application/problem+json``; None when the request is to be served."""
        return headers.describe_problem(self)


def read_decision(response: enforcer_pb2.CheckResponse, cost: int, received_ms: int) -> Decision:
    """Read one answer. An outcome that this version does not know is a denial: it was not said to serve.

    Args:
        response: The enforcer's message.
        cost: What was asked for, in tokens.
        received_ms: This process's clock.
    """
    ban = response.ban if response.HasField("ban") else None
    warning = response.warning if response.HasField("warning") else None
    return Decision(
        _OUTCOMES.get(response.outcome, "deny"),
        _REASONS.get(response.reason, "limit"),
        cost,
        received_ms,
        response.policy,
        response.policy_version,
        tuple(
            [
                LimitStatus(
                    limit.policy,
                    limit.name,
                    limit.capacity,
                    limit.remaining,
                    limit.retry_after_ms,
                    limit.reset_after_ms,
                    limit.refused,
                    limit.shadow,
                )
                for limit in response.limits
            ]
        ),
        response.retry_after_ms,
        None if ban is None else Ban(ban.until_ms, tuple(ban.scope), ban.level, ban.rule, ban.verdict_id, ban.subject),
        None if warning is None else Warned(warning.until_ms, warning.rule, warning.verdict_id, warning.subject),
        response.shadow,
        response.degraded,
        response.cached,
        factor_per_mille=response.factor_per_mille,
    )
