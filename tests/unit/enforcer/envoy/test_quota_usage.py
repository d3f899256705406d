"""What data planes report, as decisions."""

from __future__ import annotations

from enforcer.decisions.decision import Ban, Decision, Reading
from enforcer.decisions.plan import Plan
from enforcer.envoy.quota_usage import Usage, list_decisions
from enforcer.events.folding import Folder
from enforcer.limits.bucket import Status
from tests.unit.enforcer.builders import make_plan

PLAN = make_plan(attributes={"ip": "203.0.113.7"})
"""Of login: 30 per ip, 5 per user, a minute each."""
UNIT = 60_000_000
NOW = Reading(60_000_000, Status.ALLOW, levels=(0, 0))
BEFORE = Reading(55_000_000, Status.ALLOW, levels=(30 * UNIT, 4 * UNIT))
BUCKET = (("user", "alice"),)


def report(
    allowed: int, denied: int, before: Reading | None = None, ban: Ban | None = None, *, is_degraded: bool = False
) -> list[tuple[Plan, Decision]]:
    return list(list_decisions(PLAN, Usage(BUCKET, allowed, denied), NOW, before, ban, is_degraded=is_degraded))


def count(decided: list[tuple[Plan, Decision]]) -> dict[str, int]:
    """What counts against whom."""
    folder = Folder()
    for plan, decision in decided:
        folder.add(plan, decision)
    return {fold.subject: fold.count for fold in folder.take()}


def test_nothing_used_is_nothing_decided() -> None:
    assert report(0, 0) == []


def test_what_was_let_pass_is_the_cost_and_what_was_refused_is_one_and_its_followers() -> None:
    (allowed_plan, allowed), (denied_plan, denied) = report(500, 20)
    assert (allowed_plan.check.cost, allowed.outcome) == (500, "allow")
    assert (denied_plan.check.cost, denied_plan.check.suppressed, denied.outcome) == (1, 19, "deny")
    assert allowed.is_reported
    assert denied.is_reported


def test_refusals_count_against_those_alone_whose_whole_limit_was_not_enough() -> None:
    assert count(report(2, 10, BEFORE)) == {"user=alice": 8}, "4 were left, and less than one came; the address had 30"


def test_refusals_count_against_nobody_without_a_report_before() -> None:
    assert count(report(2, 10)) == {}
    assert [decision.refused for _, decision in report(0, 10)] == [3]


def test_what_a_data_plane_decided_by_itself_is_degraded() -> None:
    decided = report(1, 1, is_degraded=True)
    assert [decision.is_degraded for _, decision in decided] == [True, True]
    assert count(decided) == {}


def test_refusals_for_a_ban_are_banned() -> None:
    ban = Ban(90_000, 1, "rule", "v1", "user=alice", ("*",))
    ((plan, decision),) = report(0, 7, BEFORE, ban)
    assert (decision.outcome, decision.reason, decision.ban, plan.check.suppressed) == ("ban", "banned", ban, 6)
