"""What a data plane reports to have used, as decisions. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from enforcer.decisions.decision import Ban, Decision, Reading
from enforcer.decisions.plan import Plan
from enforcer.envoy.quota import find_excess, mask_limits

BucketId = tuple[tuple[str, str], ...]
"""Keys and values, ordered by key."""


class Usage(msgspec.Struct, frozen=True):
    """What one data plane says about one bucket since its last report."""

    bucket_id: BucketId
    allowed: int
    denied: int


def list_decisions(
    plan: Plan, usage: Usage, reading: Reading, before: Reading | None, ban: Ban | None, *, is_degraded: bool
) -> Iterator[tuple[Plan, Decision]]:
    """List what a data plane decided: one decision for what it let pass, one for each reason that it refused for.

    Args:
        plan: The bucket's plan.
        usage: Of at most 2^53 requests.
        reading: What Redis said at this report.
        before: At the report before, if refusals may count against the subjects by what it said.
        ban: What it was told to refuse for.
        is_degraded: It went by its own configuration: before its first assignment, or after the last one ran out.

    Yields:
        A plan whose check costs what was let pass, or carries how many refusals there are besides the first; its decision.
    """
    at_ms = reading.now_us // 1000
    if usage.allowed:
        allowed = Decision("allow", "ok", at_ms, factor=reading.factor, is_degraded=is_degraded, is_reported=True)
        yield _price(plan, usage.allowed, 0), allowed
    if not usage.denied:
        return
    if ban is not None:
        yield _price(plan, 1, usage.denied - 1), Decision("ban", "banned", at_ms, ban=ban, is_reported=True)
        return
    excess, mask = (0, 0) if before is None else find_excess(plan, before, reading, usage.allowed + usage.denied)
    blamed = min(usage.denied, excess)
    denied = Decision("deny", "limit", at_ms, is_degraded=is_degraded, is_reported=True)
    if blamed:
        yield _price(plan, 1, blamed - 1), msgspec.structs.replace(denied, refused=mask, refused_at_1=mask)
    if usage.denied > blamed:
        by_share = msgspec.structs.replace(denied, factor=reading.factor, refused=mask_limits(plan))
        yield _price(plan, 1, usage.denied - blamed - 1), by_share


def _price(plan: Plan, cost: int, suppressed: int) -> Plan:
    return msgspec.structs.replace(plan, check=msgspec.structs.replace(plan.check, cost=cost, suppressed=suppressed))
