"""Answers of an enforcer, from little."""

from __future__ import annotations

from enforcer.client.decision import Decision, read_decision
from ratchet.v1 import enforcer_pb2

NOW_MS = 1_700_000_000_000


def limit(name: str = "per_user", policy: str = "login", **fields: int | bool) -> enforcer_pb2.LimitStatus:
    return enforcer_pb2.LimitStatus(policy=policy, name=name, capacity=5, **fields)  # type: ignore[arg-type]


def allowed(*limits: enforcer_pb2.LimitStatus) -> enforcer_pb2.CheckResponse:
    return enforcer_pb2.CheckResponse(
        outcome=enforcer_pb2.OUTCOME_ALLOW, reason=enforcer_pb2.REASON_OK, limits=limits, factor_per_mille=1000
    )


def denied(*limits: enforcer_pb2.LimitStatus, retry_after_ms: int) -> enforcer_pb2.CheckResponse:
    return enforcer_pb2.CheckResponse(
        outcome=enforcer_pb2.OUTCOME_DENY,
        reason=enforcer_pb2.REASON_LIMIT,
        policy="login",
        limits=limits,
        retry_after_ms=retry_after_ms,
        factor_per_mille=1000,
    )


def banned(rule: str = "brute_force") -> enforcer_pb2.CheckResponse:
    ban = enforcer_pb2.Ban(until_ms=NOW_MS + 59_001, scope=["login"], level=1, rule=rule, verdict_id="v1", subject="user=u")
    return enforcer_pb2.CheckResponse(
        outcome=enforcer_pb2.OUTCOME_BAN,
        reason=enforcer_pb2.REASON_BANNED,
        ban=ban,
        retry_after_ms=59_001,
        factor_per_mille=1000,
    )


def read(response: enforcer_pb2.CheckResponse, cost: int = 1) -> Decision:
    return read_decision(response, cost, NOW_MS)
