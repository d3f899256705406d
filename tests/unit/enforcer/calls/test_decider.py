"""One decision's way: memory, Redis or fallback, then answer, counts and event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enforcer.calls.decider import Answer, Decider
from enforcer.decisions.decision import Ban, Decision, Reading
from enforcer.decisions.fallback import Fallback
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.decisions.refusals import Refusals
from enforcer.events.emission import Emitter
from enforcer.events.folding import Folder
from enforcer.events.producer import KafkaLog
from enforcer.limits.bucket import Status
from enforcer.limits.check import Check
from enforcer.stores.store import RedisStore
from tests.unit.enforcer.builders import EVERYTHING, POLICIES_IN_FORCE, make_plan, make_policies

NOW_US = 1_700_000_000_000_000


@dataclass(slots=True)
class ToldStore(RedisStore):
    """Answers every check with the reading that it was told."""

    url: str = ""
    reading: Reading | None = None
    asked: int = 0

    def take(self, plan: Plan, answer: Answer, receive: Callable[[Plan, Answer, Reading | None], None]) -> None:
        self.asked += 1
        receive(plan, answer, self.reading)


class Bench:
    def __init__(self, reading: Reading | None) -> None:
        self.store = ToldStore(reading=reading)
        self.emitter = Emitter("tested/0/ab", KafkaLog("127.0.0.1:1", "tested"), Folder())
        self.decider = Decider(Planner(POLICIES_IN_FORCE), self.store, Refusals(), Fallback(2), self.emitter)

    def decide(self, plan: Plan) -> Decision:
        answers: list[Decision] = []
        self.decider.submit(plan, lambda _, decision: answers.append(decision))
        (answer,) = answers
        return answer


def test_reading_becomes_the_answer_the_count_and_the_event() -> None:
    bench = Bench(Reading(NOW_US, Status.ALLOW, levels=(60_000_000,)))
    decision = bench.decide(make_plan())
    assert (decision.outcome, decision.remaining) == ("allow", 1)
    assert bench.decider.counts == {("allow", "ok"): 1}
    assert (bench.emitter.stats.offered, bench.decider.degraded) == (1, 0)


def test_cost_0_is_answered_and_not_emitted() -> None:
    bench = Bench(Reading(NOW_US, Status.ALLOW, levels=(60_000_000,)))
    assert bench.decide(make_plan(cost=0)).outcome == "allow"
    assert bench.emitter.stats.offered == 0


def test_without_a_reading_the_fallback_decides_by_its_share() -> None:
    bench = Bench(None)
    decisions = [bench.decide(make_plan()) for _ in range(3)]
    assert [decision.outcome for decision in decisions] == ["allow", "allow", "deny"]
    assert all(decision.is_degraded for decision in decisions)
    assert (bench.decider.degraded, bench.store.asked) == (3, 3)


def test_refusal_is_repeated_from_memory_and_emitted_each_time() -> None:
    import time

    bench = Bench(Reading(NOW_US, Status.LIMIT, refused=1, refused_at_1=1, levels=(0,), sent_s=time.monotonic()))
    decisions = [bench.decide(make_plan()) for _ in range(5)]
    assert [decision.outcome for decision in decisions] == ["deny"] * 5
    assert bench.store.asked < 5
    assert bench.emitter.stats.offered == 5
    assert sum(decision.is_cached for decision in decisions) == 5 - bench.store.asked


def test_ban_is_kept_for_the_time_without_redis() -> None:
    import time

    until_ms = time.time_ns() // 1_000_000 + 600_000
    bench = Bench(Reading(NOW_US, Status.BAN, ban=Ban(until_ms, 1, "r", "v1", "user=alice", ("login",)), sent_s=-100.0))
    assert bench.decide(make_plan()).outcome == "ban"
    bench.store.reading = None
    decision = bench.decide(make_plan())
    assert (decision.outcome, decision.is_degraded) == ("ban", True)
    assert bench.decide(make_plan("bob")).outcome == "allow"


def test_shadow_refusals_are_counted() -> None:
    bench = Bench(Reading(NOW_US, Status.ALLOW, refused=0b10, levels=(5, 0)))
    assert bench.decide(make_plan(action="shared")).is_shadow
    assert bench.decider.shadowed == 1


async def test_deciding_can_be_waited_for() -> None:
    bench = Bench(Reading(NOW_US, Status.ALLOW, levels=(0,)))
    plan, decision = await bench.decider.decide(make_plan())
    assert (plan.check.user_id, decision.outcome) == ("alice", "allow")


def test_check_that_lacks_a_required_subject_is_refused_without_redis_and_emitted() -> None:
    bench = Bench(Reading(NOW_US, Status.ALLOW))
    planner = Planner(make_policies(EVERYTHING))
    decision = bench.decide(planner.build(Check("alice", "login"), ((("user", 0),),), ["user=alice"]))
    assert (decision.outcome, decision.reason, decision.limits, decision.refused_at_1) == ("deny", "limit", (), 0)
    assert (bench.store.asked, bench.emitter.stats.offered, bench.decider.degraded) == (0, 1, 0)
    assert bench.decider.counts == {("deny", "limit"): 1}
