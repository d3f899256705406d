"""Messages to decisions."""

from __future__ import annotations

import pytest

from enforcer.client.decision import Ban, Decision, LimitStatus, Warned
from ratchet.v1 import enforcer_pb2
from tests.unit.enforcer.client.answers import NOW_MS, allowed, banned, limit, read


def test_everything_in_an_answer_is_in_the_decision() -> None:
    response = allowed(limit(remaining=4, reset_after_ms=12), limit("trial", refused=True, retry_after_ms=7, shadow=True))
    response.policy, response.policy_version = "login", "abc"
    response.shadow = response.degraded = response.cached = True
    response.factor_per_mille = 500
    response.warning.CopyFrom(enforcer_pb2.Warning(until_ms=9, rule="r", verdict_id="v", subject="user=u"))
    assert read(response, cost=2) == Decision(
        outcome="allow",
        reason="ok",
        cost=2,
        received_ms=NOW_MS,
        policy="login",
        policy_version="abc",
        limits=(
            LimitStatus("login", "per_user", 5, 4, 0, 12, is_refused=False, is_shadow=False),
            LimitStatus("login", "trial", 5, 0, 7, 0, is_refused=True, is_shadow=True),
        ),
        warned=Warned(9, "r", "v", "user=u"),
        is_shadow=True,
        is_degraded=True,
        is_cached=True,
        factor_per_mille=500,
    )


def test_ban_is_read_whole() -> None:
    assert read(banned()).ban == Ban(NOW_MS + 59_001, ("login",), 1, "brute_force", "v1", "user=u")


@pytest.mark.parametrize("outcome", [0, 4])
def test_an_outcome_that_is_not_known_is_a_denial(outcome: int) -> None:
    decision = read(enforcer_pb2.CheckResponse(outcome=outcome))  # type: ignore[arg-type]
    assert (decision.is_allowed, decision.http_status) == (False, 429)
