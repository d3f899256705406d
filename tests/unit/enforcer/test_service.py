"""Messages to checks, decisions to messages."""

from __future__ import annotations

import pytest

from enforcer.decisions.decision import Ban, Reading, Warned, decide
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import Status
from enforcer.limits.check import Check, InvalidCheck
from enforcer.service import read_batch, read_check, write_response
from ratchet.v1 import enforcer_pb2
from tests.unit.enforcer.builders import POLICIES_IN_FORCE, make_plan

NOW_US = 1_700_000_000_000_000


def test_absent_cost_is_1_and_0_is_0() -> None:
    request = enforcer_pb2.CheckRequest(user_id="alice", action="login", attributes={"ip": "::1"}, suppressed=3)
    assert read_check(request) == Check("alice", "login", 1, {"ip": "::1"}, 3)
    request.cost = 0
    assert read_check(request).cost == 0


@pytest.mark.parametrize("bad", [0, 1, 7, 19])
def test_batch_names_its_first_bad_check(bad: int) -> None:
    checks = [enforcer_pb2.CheckRequest(user_id="" if number >= bad else "alice", action="login") for number in range(20)]
    with pytest.raises(InvalidCheck) as refused:
        read_batch(enforcer_pb2.CheckBatchRequest(checks=checks), Planner(POLICIES_IN_FORCE))
    assert str(refused.value) == f"checks[{bad}]: user_id is empty; 1 to 1024 bytes are allowed"


@pytest.mark.parametrize("count", [0, 1001])
def test_batch_is_bounded(count: int) -> None:
    checks = [enforcer_pb2.CheckRequest(user_id="alice", action="login")] * count
    with pytest.raises(InvalidCheck, match=f"checks has {count} entries; 1 to 1000 are allowed"):
        read_batch(enforcer_pb2.CheckBatchRequest(checks=checks), Planner(POLICIES_IN_FORCE))


def test_ban_and_warning_are_told_whole() -> None:
    ban = Ban(NOW_US // 1000 + 5, 2, "brute_force", "v1", "user=alice", ("login", "a*"))
    response = write_response(make_plan(), decide(make_plan(), Reading(NOW_US, Status.BAN, ban=ban)))
    assert (response.outcome, response.reason) == (enforcer_pb2.OUTCOME_BAN, enforcer_pb2.REASON_BANNED)
    assert response.ban == enforcer_pb2.Ban(
        until_ms=ban.until_ms, scope=ban.scope, level=2, rule="brute_force", verdict_id="v1", subject="user=alice"
    )
    assert not response.HasField("warning")
    warned = Warned(NOW_US // 1000 + 5, "brute_force", "v2", "user=alice")
    response = write_response(make_plan(), decide(make_plan(), Reading(NOW_US, Status.ALLOW, levels=(0,), warned=warned)))
    assert response.warning == enforcer_pb2.Warning(
        until_ms=warned.until_ms, rule="brute_force", verdict_id="v2", subject="user=alice"
    )
    assert not response.HasField("ban")
