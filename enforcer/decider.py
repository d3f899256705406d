"""The decision path: check, plan, reading, decision, answer, event."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from enforcer.check import Check, Plan, plan_check
from enforcer.decision import Decision, Reading, decide
from enforcer.emission import Emitter
from enforcer.fallback import Fallback
from enforcer.policy import Policies
from enforcer.store import RedisStore

log = structlog.get_logger(__name__)

Answer = Callable[[Plan, Decision], None]


@dataclass(slots=True)
class Decider:
    """Decides checks. Belongs to one event loop; no method waits for Kafka, config, metrics or logs."""

    policies: Policies
    store: RedisStore
    fallback: Fallback
    emitter: Emitter
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Decisions by outcome and reason."""
    degraded: int = 0
    shadowed: int = 0

    def submit(self, check: Check, answer: Answer) -> None:
        """Decide one check; ``answer`` is called once, on the loop, with the plan and the decision.

        Raises:
            InvalidCheck: The cost is above a limit's capacity. ``answer`` is not called.
        """
        self.submit_plan(plan_check(check, self.policies), answer)

    def submit_plan(self, plan: Plan, answer: Answer) -> None:
        """Decide one plan."""
        self.store.take(plan, partial(self._finish, plan, answer))

    def _finish(self, plan: Plan, answer: Answer, reading: Reading | None) -> None:
        if reading is None:
            plan = self.fallback.share(plan)
            reading = self.fallback.read(plan, time.time_ns() // 1000)
            self.degraded += 1
        elif reading.ban is not None:
            self.fallback.remember(reading.ban)
        decision = decide(plan, reading)
        self.counts[decision.outcome, decision.reason] += 1
        if decision.is_shadow:
            self.shadowed += 1
        answer(plan, decision)
        if plan.check.cost > 0:
            self.emitter.offer(plan, decision)

    async def decide(self, check: Check) -> tuple[Plan, Decision]:
        """Decide one check and wait for the answer.

        Raises:
            InvalidCheck: The cost is above a limit's capacity. Never repeat the check as it is.
        """
        return await self.decide_plan(plan_check(check, self.policies))

    async def decide_plan(self, plan: Plan) -> tuple[Plan, Decision]:
        """Decide one plan and wait for the answer."""
        future: asyncio.Future[tuple[Plan, Decision]] = asyncio.get_running_loop().create_future()

        def answer(plan: Plan, decision: Decision) -> None:
            if not future.done():  # the caller may have left
                future.set_result((plan, decision))

        self.submit_plan(plan, answer)
        return await future
