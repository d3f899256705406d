"""The decision path: plan, reading, decision, answer, event."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from enforcer.decisions.decision import Decision, Reading, decide, refuse_incomplete
from enforcer.decisions.fallback import Fallback
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.decisions.refusals import Refusals
from enforcer.events.emission import Emitter
from enforcer.stores.cluster_store import Store

Answer = Callable[[Plan, Decision], None]


@dataclass(slots=True)
class Decider:
    """Decides checks. Belongs to one event loop; no method waits for Kafka, config, metrics or logs."""

    planner: Planner
    store: Store
    refusals: Refusals
    fallback: Fallback
    emitter: Emitter
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Decisions by outcome and reason."""
    degraded: int = 0
    shadowed: int = 0
    failed_calls: int = 0
    """Calls that a fault of ours ended without a decision."""

    def submit(self, plan: Plan, answer: Answer) -> None:
        """Decide one plan; ``answer`` is called once, on the loop, before this returns or later. It must not raise."""
        if plan.template.is_incomplete:
            self._finish(plan, answer, refuse_incomplete(plan, time.time_ns() // 1000))
            return
        reading = self.refusals.find(plan, time.monotonic())
        if reading is not None:
            self._finish(plan, answer, reading)
        else:
            self.store.take(plan, answer, self._receive)

    def _receive(self, plan: Plan, answer: Answer, reading: Reading | None) -> None:
        """Redis has answered, or None: it has not, in time."""
        if reading is None:
            levels = self.refusals.estimate(plan, time.monotonic())
            plan = self.fallback.share(plan)
            reading = self.fallback.read(plan, time.time_ns() // 1000, levels)
            self.degraded += 1
        else:
            if reading.status:
                self.refusals.remember(plan, reading)
            if reading.ban is not None:
                self.fallback.remember(reading.ban)
            elif self.fallback.is_used:
                self.fallback.learn(plan, reading, time.time_ns() // 1000)
        self._finish(plan, answer, reading)

    def _finish(self, plan: Plan, answer: Answer, reading: Reading) -> None:
        decision = decide(plan, reading)
        answer(plan, decision)
        self.counts[decision.outcome, decision.reason] += 1
        if decision.is_shadow:
            self.shadowed += 1
        if plan.check.cost:
            self.emitter.offer(plan, decision)

    async def decide(self, plan: Plan) -> tuple[Plan, Decision]:
        """Decide one plan and wait for the answer."""
        future: asyncio.Future[tuple[Plan, Decision]] = asyncio.get_running_loop().create_future()

        def answer(plan: Plan, decision: Decision) -> None:
            if not future.done():  # the caller may have left
                future.set_result((plan, decision))

        self.submit(plan, answer)
        return await future
