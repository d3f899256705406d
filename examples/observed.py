"""What the live view knows: counts and bans, taken from nothing but the events that Ratchet itself writes. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from topics.events import AbuseState, DecisionEvent, Event, VerdictEvent

MOST_USERS = 500
"""Users that are kept; who was seen longest ago goes first."""
MOST_SUBJECTS = 500
RATE_WINDOW_S = 10


@dataclass(slots=True)
class UserActivity:
    """What became of one user's checks.

    Attributes:
        outcomes: Decisions by outcome.
        action: The last action.
        outcome: The last outcome.
        why: The limits of the last denial, or the end of a ban's story; empty before the first refusal.
        ips: Addresses that the user came from, up to 3.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    action: str = ""
    outcome: str = ""
    why: str = ""
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BanSeen:
    """A ban that is in force.

    Attributes:
        subject: ``kind=value``.
        until_ms: When it ends.
        rule: What led to it.
        level: Rung of the ladder.
        offences: How often the subject has offended.
        scope: Actions that are refused.
    """

    subject: str
    until_ms: int
    rule: str
    level: int
    offences: int
    scope: tuple[str, ...]


@dataclass(slots=True)
class Observed:
    """Everything that the view shows. Bounded, however many users come."""

    users: OrderedDict[str, UserActivity] = field(default_factory=OrderedDict)
    outcomes: Counter[str] = field(default_factory=Counter)
    decided_by: Counter[str] = field(default_factory=Counter)
    """Decisions by the enforcer that made them."""
    degraded: int = 0
    verdicts: deque[VerdictEvent] = field(default_factory=lambda: deque(maxlen=50))
    subjects: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Subjects that verdicts were about: whose abuse keys are worth reading."""
    bans: tuple[BanSeen, ...] = ()
    latest_ms: int = 0
    """Time of the latest decision, on Redis' clock."""
    _per_second: Counter[int] = field(default_factory=Counter)

    def note(self, events: Iterable[Event]) -> None:
        """Take in events in the order in which they were read."""
        for event in events:
            if isinstance(event, DecisionEvent):
                self._note_decision(event)
            elif isinstance(event, VerdictEvent):
                self.verdicts.append(event)
                self.subjects[event.subject] = None
                self.subjects.move_to_end(event.subject)
                if len(self.subjects) > MOST_SUBJECTS:
                    self.subjects.popitem(last=False)

    def note_abuse(self, states: Iterable[tuple[str, AbuseState]], now_ms: int) -> None:
        """Take in the abuse keys as they are now; bans that are over at ``now_ms`` are left out."""
        bans = [
            BanSeen(subject, ban.until_ms, ban.rule, ban.level, state.offences, ban.scope)
            for subject, state in states
            for ban in state.bans
            if ban.until_ms > now_ms
        ]
        self.bans = tuple(sorted(bans, key=lambda ban: ban.until_ms))

    def rate_per_s(self) -> float:
        """Decisions per second over the last ``RATE_WINDOW_S`` whole seconds of event time."""
        now_s = self.latest_ms // 1000
        return sum(self._per_second[now_s - back] for back in range(1, RATE_WINDOW_S + 1)) / RATE_WINDOW_S

    def most_refused(self, most: int) -> list[tuple[str, UserActivity]]:
        """Return users, those with the most refusals first, then those with the most decisions."""

        def weight(row: tuple[str, UserActivity]) -> tuple[int, int]:
            outcomes = row[1].outcomes
            return outcomes["deny"] + outcomes["ban"], outcomes.total()

        return sorted(self.users.items(), key=weight, reverse=True)[:most]

    def _note_decision(self, event: DecisionEvent) -> None:
        self.outcomes[event.outcome] += 1
        self.decided_by[event.source.partition("/")[0]] += 1
        self.degraded += event.degraded
        self.latest_ms = max(self.latest_ms, event.decided_at_ms)
        self._per_second[event.decided_at_ms // 1000] += 1
        if len(self._per_second) > 4 * RATE_WINDOW_S:
            for second in sorted(self._per_second)[: -2 * RATE_WINDOW_S]:
                del self._per_second[second]
        user = self.users.setdefault(event.user_id, UserActivity())
        self.users.move_to_end(event.user_id)
        if len(self.users) > MOST_USERS:
            self.users.popitem(last=False)
        user.outcomes[event.outcome] += 1
        user.action, user.outcome = event.action, event.outcome
        if event.outcome != "allow":
            user.why = ", ".join(event.limits) or event.reason
        ip = event.attributes.get("ip")
        if ip and ip not in user.ips:
            user.ips = (*user.ips, ip)[-3:]
