"""What Ratchet promises, played once against a running system and compared with what was seen.

Nothing here depends on how the system was started. Every run has users and addresses of its own, so it can be repeated, and the
attribute ``replay`` of its checks finds its decisions in the topic. Expects the limits of ``config/policies.yaml`` and a rule
``brute_force`` of 10 login denials; takes the lengths of bans from what it is told.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from random import Random

from enforcer.client import AsyncClient, Decision
from examples.findings import (
    ALLOW,
    BAN,
    DENY,
    LOGIN_CAPACITY,
    SEARCH_CAPACITY,
    THRESHOLD,
    BanObserved,
    Events,
    Finding,
    judge_ban,
    judge_bystanders,
    judge_end,
    judge_events,
    judge_logins,
    judge_office,
    judge_person,
    judge_scope,
    judge_searches,
    judge_second,
)
from examples.system import ROOT, SystemAddresses
from examples.targets import open_witness
from examples.topic_reader import TopicReader
from topics.events import DecisionEvent, SubjectEvent, VerdictEvent

SEARCH_FOR_S = 2.0
OFFICE_PEOPLE, STUFFED_USERS = 35, 45
BAN_WITHIN_S = 10.0
LONGEST_BAN_S = 120.0
EVENTS_WITHIN_S = 15.0
POLL_S = 0.005

Tell = Callable[[str], None]


class Scenario:
    """One run of the scenario. Make it on the loop that plays it."""

    def __init__(self, addresses: SystemAddresses, *, tell: Tell) -> None:
        """Prepare; ``tell`` is given a line for each scene."""
        self._addresses = addresses
        self._tell = tell
        self.mark = uuid.uuid4().hex[:8]
        self._random = Random(self.mark)  # noqa: S311 hides nothing
        first, second = addresses.enforcers
        self._enforcers = tuple(open_witness(one) for one in (first, second))
        self._envoy = open_witness(addresses.envoy)
        self._sent = 0
        self._degraded = 0
        self._not_banned: Counter[str] = Counter()
        """Outcomes of everybody whom no rule is about."""

    async def play(self) -> list[Finding]:
        """Play every scene and return what came of it.

        Raises:
            NoDecision: An enforcer gave no decision; what was seen so far proves nothing.
            LookupError: A topic does not exist.
        """
        async with TopicReader(self._addresses.kafka, ["decisions", "verdicts", "subjects"]) as reader:
            try:
                await self._warm_up()
                self._tell("one user logs in 14 times at once, and another searches without pause, through both enforcers")
                findings = [await self._log_in_at_once(), await self._search_without_pause()]
                self._tell("somebody tries passwords of one user, while an office, a stuffer, a job and people come too")
                first, *bystanders = await asyncio.gather(self._offend(), self._come_as_office(), self._come_as_others())
                findings += [*judge_ban(first), *bystanders, await self._search_while_banned()]
                self._tell("the ban ends; then the same again")
                findings.append(await self._outlast(first))
                second = await self._offend()
                findings += [judge_second(first, second), judge_bystanders(self._not_banned)]
                self._tell("reading the topics")
                findings += judge_events(
                    await self._read_events(reader),
                    subject=f"user=victim-{self.mark}",
                    sent=self._sent,
                    balanced_user=f"job-{self.mark}",
                )
            finally:
                for client in (*self._enforcers, self._envoy):
                    await client.close()
        return findings

    async def _ask(self, client: AsyncClient, who: str, action: str, *, ip: str, cost: int = 1) -> Decision:
        self._sent += cost > 0  # a cost of 0 is no decision that anybody is told of
        attributes = {"ip": ip, "replay": self.mark}
        answer = await client.check(f"{who}-{self.mark}", action, cost, attributes)
        self._degraded += answer.is_degraded
        return answer

    def _new_ip(self) -> str:
        """Give an address of the range that RFC 2544 sets aside for tests."""
        return f"198.18.{self._random.randrange(256)}.{self._random.randrange(256)}"

    async def _warm_up(self) -> None:
        """Let every connection be made, so that no scene's clock counts that."""
        for client in (*self._enforcers, self._envoy):
            await self._ask(client, "first", "search", ip=self._new_ip())

    async def _log_in_at_once(self) -> Finding:
        ip, times = self._new_ip(), LOGIN_CAPACITY + THRESHOLD - 1  # one denial below an offence
        answers = await asyncio.gather(
            *(self._ask(self._enforcers[number % 2], "eager", "login", ip=ip) for number in range(times))
        )
        return judge_logins(Counter(answer.outcome for answer in answers))

    async def _search_without_pause(self) -> Finding:
        ip, admitted = self._new_ip(), 0
        first_answer = last_send = 0.0
        started = time.perf_counter()

        async def search(client: AsyncClient) -> None:
            nonlocal admitted, first_answer, last_send
            while (sent_at := time.perf_counter()) < started + SEARCH_FOR_S:
                last_send = max(last_send, sent_at)
                answer = await self._ask(client, "hammer", "search", ip=ip)
                first_answer = first_answer or time.perf_counter()
                admitted += answer.outcome == ALLOW

        await asyncio.gather(*(search(self._enforcers[number % 2]) for number in range(8)))
        # The bucket was first touched between the first send and its answer, and last between the last send and its answer.
        most_s = time.perf_counter() - started
        return judge_searches(admitted, self._degraded, least_s=last_send - first_answer, most_s=most_s)

    async def _offend(self) -> BanObserved:
        """Log in as one user until the threshold is crossed, then wait for the ban on both enforcers."""
        ip = self._new_ip()
        denied = 0
        for number in range(THRESHOLD + LOGIN_CAPACITY):
            answer = await self._ask(self._enforcers[number % 2], "victim", "login", ip=ip)
            denied += answer.outcome == DENY
            if denied == THRESHOLD:
                break
        crossed_at = time.perf_counter()

        async def wait_for_ban(client: AsyncClient) -> tuple[Decision, float]:
            while True:
                answer = await self._ask(client, "victim", "login", ip=ip, cost=0)
                waited_s = time.perf_counter() - crossed_at
                if answer.outcome == BAN or waited_s > BAN_WITHIN_S:
                    return await self._ask(client, "victim", "login", ip=ip), waited_s * 1000
                await asyncio.sleep(POLL_S)

        (one, one_ms), (other, other_ms) = await asyncio.gather(*map(wait_for_ban, self._enforcers))
        return BanObserved((one, other), (one_ms, other_ms), time.time_ns() // 1_000_000)

    async def _come_as_office(self) -> Finding:
        """Many users behind one address, twice each: the address is limited, nobody is banned."""
        ip = self._new_ip()
        answers = [
            await self._ask(self._enforcers[number % 2], f"office-{number % OFFICE_PEOPLE}", "login", ip=ip)
            for number in range(2 * OFFICE_PEOPLE)
        ]
        return judge_office(self._note_bystander(answers), OFFICE_PEOPLE)

    async def _come_as_others(self) -> Finding:
        """A person and a scraper within their limits, a job beyond its own, a stuffer; all through Envoy."""
        ip, stuffer = self._new_ip(), self._new_ip()
        person = [await self._ask(self._envoy, "person", "login", ip=ip)]
        person += [await self._ask(self._envoy, "person", "search", ip=ip) for _ in range(10)]
        person += [await self._ask(self._envoy, "scraper", "search", ip=ip) for _ in range(SEARCH_CAPACITY - 10)]
        job = [await self._ask(self._envoy, "job", "search", ip=ip) for _ in range(3 * SEARCH_CAPACITY)]
        stuffed = [await self._ask(self._envoy, f"leaked-{number}", "login", ip=stuffer) for number in range(STUFFED_USERS)]
        self._note_bystander([*job, *stuffed])
        return judge_person(self._note_bystander(person))

    def _note_bystander(self, answers: Iterable[Decision]) -> Counter[str]:
        seen = Counter[str](answer.outcome for answer in answers)
        self._not_banned += seen
        return seen

    async def _search_while_banned(self) -> Finding:
        return judge_scope(await self._ask(self._enforcers[0], "victim", "search", ip=self._new_ip()))

    async def _outlast(self, ban: BanObserved) -> Finding:
        """Wait for the ban's end on both enforcers, and compare it with what was told."""
        ip = self._new_ip()

        async def wait_for_end(client: AsyncClient) -> float:
            deadline = time.monotonic() + LONGEST_BAN_S
            is_banned = True
            while is_banned and time.monotonic() < deadline:
                answer = await self._ask(client, "victim", "login", ip=ip, cost=0)
                is_banned = answer.outcome == BAN
                await asyncio.sleep(POLL_S)
            return time.time() * 1000 - ban.until_ms

        return judge_end(await asyncio.gather(*map(wait_for_end, self._enforcers)))

    async def _read_events(self, reader: TopicReader) -> Events:
        """Read until every decision of this run is there and both verdicts are, or the time is up."""
        events = Events()
        deadline = time.monotonic() + EVENTS_WITHIN_S
        while time.monotonic() < deadline:
            batch = await reader.read()
            for event in batch:
                match event:
                    case DecisionEvent() if event.attributes.get("replay") == self.mark:
                        events.decisions.append(event)
                    case VerdictEvent() if self.mark in event.subject:
                        events.verdicts.append(event)
                    case SubjectEvent() if self.mark in event.subject:
                        events.subjects.append(event)
            if not batch and len(events.decisions) >= self._sent and len(events.verdicts) >= 2 and len(events.subjects) >= 2:
                break
        return events


async def audit_decisions(kafka: str) -> Finding:
    """Run the audit of topic ``decisions``, as an analyst would: no decision is missing, none doubled."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "topics", "audit", "decisions", "--bootstrap", kafka,
        cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    last = (output.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
    code = process.returncode
    return Finding("audit of decisions", "exit 0", f"exit {code}: {last[:60]}" if code else "exit 0", code == 0)


async def play_scenario(addresses: SystemAddresses, *, tell: Tell, drain: Callable[[], Awaitable[None]]) -> list[Finding]:
    """Play the scenario, drain the enforcers, and audit what they wrote.

    Args:
        addresses: The running system.
        tell: Given a line for each scene.
        drain: Ends the enforcers where this run may; what cannot be drained is audited as it runs.
    """
    findings = await Scenario(addresses, tell=tell).play()
    await drain()
    return [*findings, await audit_decisions(addresses.kafka)]
