"""Faults under load, on real servers: ``python -m bench.faults [NAME ...]``.

While users hammer one limit through one enforcer, a part is stopped, killed, slowed or lied to, and comes back. Told are the
slowest answer, what was given beyond the limit, how soon decisions were exact again, and whether the topic has every decision.
Instants are of this process's monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import typer
from redis.asyncio import Redis

from bench.fault_plays import FAULTS, Fault, Scene
from bench.servers import ROOT, run_enforcer
from bench.trouble import TroubleProxy
from devstack.ports import LOOPBACK, PortChooser
from devstack.stack import Stack, StackSpec
from enforcer.client import AsyncClient, NoDecision
from examples.targets import open_witness
from topics.proof import prove

POLICIES = ROOT / "bench" / "policies" / "faults.yaml"
CAPACITY, REFILL_PER_S = 20, 20
USERS = 10
PAUSE_S = 0.02
"""Of each user, between two questions: more than the limit allows, and less than the machine."""
WAIT_S = 5.0
"""For one answer. Nothing may come near it."""
BEFORE_S, AFTER_S = 1.5, 4.0
AUDIT_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and its answer."""

    sent_s: float
    answered_s: float
    is_admitted: bool
    is_degraded: bool

    @property
    def took_ms(self) -> float:
        """How long the answer took."""
        return (self.answered_s - self.sent_s) * 1000


@dataclass(frozen=True, slots=True)
class Seen:
    """What one fault led to."""

    fault: Fault
    answers: int
    unanswered: int
    degraded: int
    slowest_ms: float
    """Of those that were asked while it lasted, and afterwards."""
    usual_ms: float
    """The slowest of before, when nothing was wrong."""
    beyond: float
    """Tokens that the worst user was given beyond capacity + refill x time."""
    bound: float
    """How many that may be: what its bucket in Redis gained, each time that memory gave instead."""
    recovered_s: float
    """From the end of the fault to the last question that was decided without Redis."""
    missing: int
    doubled: int
    events: int
    """Decisions in the topic."""

    @property
    def is_kept(self) -> bool:
        """Whether what is promised was kept: everything but times, which depend on the machine."""
        return (
            not self.unanswered
            and not self.missing
            and not self.doubled
            and self.beyond <= self.bound
            and self.events == self.answers
        )


async def play(fault: Fault, *, during_s: float) -> Seen:
    """Play one fault on a stack of its own; what is promised of it is judged by :attr:`Seen.is_kept`."""
    async with contextlib.AsyncExitStack() as exits:
        stack = await exits.enter_async_context(Stack(StackSpec(parts=frozenset({"redis", "kafka"}))))
        behind = int(stack.redis_url.rpartition(":")[2].partition("/")[0])
        port = PortChooser().choose()
        proxy = await exits.enter_async_context(TroubleProxy(port, behind))
        redis = await exits.enter_async_context(Redis.from_url(stack.redis_url))
        trouble = fault.make(Scene(stack, proxy, redis))
        if fault.from_start:
            await trouble.__aenter__()
        enforcer = run_enforcer(f"redis://{LOOPBACK}:{port}/0", stack.kafka_bootstrap, policies=POLICIES)
        serving = await asyncio.to_thread(enforcer.__enter__)
        users = [_User(f"user-{number}") for number in range(USERS)]
        is_over = asyncio.Event()
        try:
            async with open_witness(serving.address, timeout_s=WAIT_S) as client:
                asking = asyncio.gather(*(user.ask_on(client, is_over) for user in users))
                await asyncio.sleep(BEFORE_S)
                began_s = time.monotonic()
                if not fault.from_start:
                    await trouble.__aenter__()
                await asyncio.sleep(during_s)
                await trouble.__aexit__(None, None, None)
                healed_s = time.monotonic()
                await asyncio.sleep(AFTER_S)
                is_over.set()
                await asking
        finally:
            await asyncio.to_thread(enforcer.__exit__, None, None, None)
        report = await prove(stack.kafka_bootstrap, "decisions", wait_s=AUDIT_WITHIN_S)
    answers = [answer for user in users for answer in user.answers]
    during = [answer for answer in answers if answer.sent_s >= began_s]
    degraded = [answer for answer in answers if answer.is_degraded]
    return Seen(
        fault=fault,
        answers=len(answers),
        unanswered=sum(user.unanswered for user in users),
        degraded=len(degraded),
        slowest_ms=max(answer.took_ms for answer in during),
        usual_ms=max(answer.took_ms for answer in answers if answer.sent_s < began_s),
        beyond=max(user.measure_beyond() for user in users),
        bound=max(user.measure_bound() for user in users) + CAPACITY * fault.forgets,
        recovered_s=max((answer.sent_s - healed_s for answer in degraded), default=0.0),
        missing=sum(account.missing.numbers for account in report.accounts),
        doubled=sum(account.doubled.numbers for account in report.accounts),
        events=sum(account.read for account in report.accounts),
    )


class _User:
    """Asks for more than the limit allows, one question after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.answers: list[Asked] = []
        self.unanswered = 0

    async def ask_on(self, client: AsyncClient, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            sent_s = time.monotonic()
            try:
                answer = await client.check(self._name, "guarded")
            except NoDecision:
                self.unanswered += 1
            else:
                self.answers.append(Asked(sent_s, time.monotonic(), answer.is_allowed, answer.is_degraded))
            await asyncio.sleep(PAUSE_S)

    def measure_beyond(self) -> float:
        """The most that was given beyond the limit from the first question up to any answer."""
        beyond, admitted = 0.0, 0
        first_s = self.answers[0].sent_s
        for answer in self.answers:
            admitted += answer.is_admitted
            beyond = max(beyond, admitted - CAPACITY - REFILL_PER_S * (answer.answered_s - first_s))
        return beyond

    def measure_bound(self) -> float:
        """The most that may have been given beyond the limit: the refill of every span without Redis, up to the capacity."""
        bound, began_s = 0.0, None
        for answer in self.answers:
            if answer.is_degraded:
                began_s = answer.sent_s if began_s is None else began_s
            elif began_s is not None:
                bound += min(CAPACITY, REFILL_PER_S * (answer.answered_s - began_s))
                began_s = None
        return bound


def write_table(played: list[Seen]) -> str:
    """Write what was seen as a Markdown table."""
    lines = [
        "| fault | promised | decisions | degraded | slowest, ms (before) | tokens beyond (bound) | exact after, s | missing |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {seen.fault.name} | {seen.fault.promise} | {seen.answers:,} | {seen.degraded:,} | {seen.slowest_ms:.0f}"
        f" ({seen.usual_ms:.0f}) | {seen.beyond:.1f} ({seen.bound:.1f}) | {max(0.0, seen.recovered_s):.2f} | {seen.missing} |"
        for seen in played
    ]
    return "\n".join(lines)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Which; without any, all of them.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="How long each lasts.")] = 3.0,
) -> None:
    """Play faults under load; exit 0 only if what is promised was kept."""
    known = {fault.name: fault for fault in FAULTS}
    if unknown := set(names or ()) - known.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: no such fault; there are {', '.join(known)}")
    played = []
    for name in names or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        played.append(asyncio.run(play(known[name], during_s=seconds)))
    print(write_table(played))
    broken = [seen for seen in played if not seen.is_kept]
    for seen in broken:
        print(
            f"NOT KEPT: {seen.fault.name}: {seen.unanswered} unanswered, {seen.events} events of {seen.answers} answers,"
            f" {seen.missing} missing, {seen.doubled} doubled, {seen.beyond:.1f} beyond the limit"
        )
    raise typer.Exit(1 if broken else 0)


if __name__ == "__main__":
    typer.run(main)
