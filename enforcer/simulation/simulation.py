"""Run recorded decisions through a policies document, in event time, and see what would have changed. Pure.

The buckets are those of the candidate alone: every recorded check is asked again, in the order of its time, and takes its
tokens or does not. What a bucket held before the record begins is not known; it counts as full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.limits.bucket import UNLOWERED, Bucket, Status, Terms, take
from enforcer.limits.check import Check, InvalidCheck
from enforcer.limits.policy import Policies
from lua.keys import name_attribute
from topics.recorded import Recorded

MOST_BUCKETS = 500_000
"""Buckets in memory, about 200 MB. Full ones are forgotten first, which changes nothing."""
MOST_PLANS = 100_000
MOST_USERS = 100_000
"""Users whose changes are counted one by one; past this those with the fewest go."""
MOST_EXAMPLES = 10

Cause = Literal["banned", "cached", "degraded", "invalid", "open", "other document", "reported", "throttled"]
Difference = Literal["before the record", "same millisecond", "unexplained"]


class _Place(NamedTuple):
    """One limit of one subject."""

    key: str
    terms: Terms
    is_shadow: bool
    units: int
    """That one token is."""


class _Asked(NamedTuple):
    """What one kind of check, of one caller, asks."""

    policy: str
    places: tuple[_Place, ...]
    smallest_capacity: int


_State: TypeAlias = tuple[int, int, Terms] | Bucket
"""Level, time and terms; a whole bucket where a factor has left its traces."""


@dataclass(slots=True)
class Replay:
    """One document and its buckets. ``ask``, then ``settle``."""

    policies: Policies
    forgotten: int = 0
    """Buckets that were forgotten although they were not full."""
    policy: str = ""
    """Of the check that was asked last."""
    _planner: Planner = field(init=False)
    _plans: dict[object, _Asked | None] = field(default_factory=dict)
    _states: dict[str, _State] = field(default_factory=dict)
    _asked: _Asked | None = None
    _levels: list[int] = field(default_factory=list)
    _stored: Sequence[Bucket | None] | None = None
    _cost: int = 0
    _now_us: int = 0

    def __post_init__(self) -> None:
        self._planner = Planner(self.policies)

    def ask(self, record: Recorded) -> Status:
        """How this document decides one recorded check at its own time and factor. FAILED: it refuses the content."""
        attributes = record.attributes
        key = (record.action, record.user_id, *attributes.items()) if attributes else (record.action, record.user_id)
        try:
            asked = self._plans[key]
        except KeyError:
            asked = self._plan(key, record)
        self._asked, self._stored, self._cost = asked, None, record.cost
        if asked is None:
            return Status.FAILED
        self.policy = asked.policy
        if record.cost > asked.smallest_capacity:
            self._asked = None
            return Status.FAILED
        self._now_us = now_us = max(self._now_us, record.decided_at_ms * 1000)  # a late one counts as now
        cost, states = record.cost, self._states
        if record.factor != UNLOWERED or cost < 0:
            return self._ask_specification(record)
        levels = self._levels = []
        status = Status.ALLOW
        for place in asked.places:
            terms = place.terms
            state = states.get(place.key)
            if state is None:
                level = terms.capacity_units
            elif type(state) is tuple:
                elapsed = now_us // terms.tick_us - state[1]
                level = state[0] + elapsed * terms.refill if elapsed > 0 else state[0]
                level = min(level, terms.capacity_units)
            else:
                return self._ask_specification(record)
            levels.append(level)
            if level < cost * place.units and not place.is_shadow:
                status = Status.LIMIT
        return status

    def settle(self, *, is_taken: bool) -> None:
        """Keep what became of the check that was asked last: it took its tokens, or none.

        One that a factor bore on keeps what the specification says.
        """
        asked = self._asked
        if asked is None:
            return
        states = self._states
        if self._stored is not None:
            for place, bucket in zip(asked.places, self._stored, strict=True):
                if bucket is not None:
                    is_plain = bucket.level_at_1 is None and not bucket.remainder
                    states[place.key] = (bucket.level, bucket.time_ticks, place.terms) if is_plain else bucket
        elif is_taken:
            cost, now_us = self._cost, self._now_us
            for place, level in zip(asked.places, self._levels, strict=True):
                left = level - cost * place.units
                if place.is_shadow and left < 0:
                    left = level
                states[place.key] = (max(left, 0), now_us // place.terms.tick_us, place.terms)
        if len(states) > MOST_BUCKETS:
            self._forget()

    def list_margins(self) -> list[tuple[Terms, int, str]]:
        """For each enforced limit of the last check: its terms, units above (below 0: short of) the cost, its bucket's key."""
        if self._asked is None or self._stored is not None:
            return []
        return [
            (place.terms, level - self._cost * place.units, place.key)
            for place, level in zip(self._asked.places, self._levels, strict=True)
            if not place.is_shadow
        ]

    def _plan(self, key: object, record: Recorded) -> _Asked | None:
        if len(self._plans) >= MOST_PLANS:
            self._plans.clear()
        try:
            plan = self._plan_check(Check(record.user_id, record.action, 1, record.attributes))
        except InvalidCheck:
            asked = None
        else:
            places = tuple(
                _Place(name, limit.terms, limit.is_shadow, limit.terms.period_ticks)
                for name, limit in zip(plan.bucket_keys, plan.limits, strict=True)
            )
            asked = _Asked(plan.template.policy.name, places, plan.template.smallest_capacity)
        self._plans[key] = asked
        return asked

    def _plan_check(self, check: Check) -> Plan:
        """Plan one check; Envoy may have named no user."""
        if check.user_id:
            return self._planner.plan(check)
        policies = self.policies
        subjects = [kind for kind in policies.attribute_kinds if check.attributes.get(kind)]
        further = [kind for kind in policies.attributes if check.attributes.get(kind)]
        descriptor = tuple((kind, slot) for slot, kind in enumerate([*subjects, *further]))
        names = [name_attribute(kind, check.attributes[kind]) for kind in (*subjects, *further)]
        return self._planner.build(check, (descriptor,), names[: len(subjects)], names[len(subjects) :])

    def _ask_specification(self, record: Recorded) -> Status:
        """Ask by ``enforcer.limits.bucket``: factors, refunds and their traces."""
        assert self._asked is not None  # noqa: S101 the caller planned
        places = self._asked.places
        buckets = [self._rebuild(place) for place in places]
        self._stored, taken = take(
            buckets,
            [place.terms for place in places],
            [place.is_shadow for place in places],
            [record.cost] * len(places),
            record.factor,
            self._now_us,
        )
        return taken.status

    def _rebuild(self, place: _Place) -> Bucket | None:
        state = self._states.get(place.key)
        if state is None or isinstance(state, Bucket):
            return state
        level, time_ticks, terms = state
        to_full_ms = max(1, -(-(-(-(terms.capacity_units - level) // terms.refill) * terms.tick_us) // 1000))
        return Bucket(level, time_ticks, terms.tag, expires_us=time_ticks * terms.tick_us + to_full_ms * 1000)

    def _forget(self) -> None:
        """Forget what is full, and, if that is too little, what was begun first."""
        now_us = self._now_us
        for key, state in list(self._states.items()):
            if isinstance(state, tuple):
                level, time_ticks, terms = state
                if level + (now_us // terms.tick_us - time_ticks) * terms.refill >= terms.capacity_units:
                    del self._states[key]
        excess = len(self._states) - MOST_BUCKETS * 3 // 4
        for key in list(self._states)[: max(0, excess)]:
            del self._states[key]
            self.forgotten += 1


class PolicyChanges(msgspec.Struct):
    """What became of the checks of one policy of the candidate."""

    checks: int = 0
    still_allowed: int = 0
    still_denied: int = 0
    now_denied: int = 0
    """Allowed in the record, refused by the candidate."""
    now_allowed: int = 0
    refused_content: int = 0
    """Of those now denied: the candidate would answer INVALID_ARGUMENT, as a cost above the capacity could never pass."""


class UserChanges(msgspec.Struct):
    """What became of the checks of one user; of an address where no user was named."""

    now_denied: int = 0
    now_allowed: int = 0
    first_ms: int = 0
    """When the first of its checks changed."""


class Truth(msgspec.Struct):
    """How well a simulation of the document that was in force repeats the record.

    Each check is asked again with the buckets as the record left them. Not judged is what no bucket decided alone.
    """

    judged: int = 0
    repeated: int = 0
    not_judged: Counter[str] = msgspec.field(default_factory=Counter)
    differences: Counter[str] = msgspec.field(default_factory=Counter)
    examples: list[str] = msgspec.field(default_factory=list)
    """The first of those that nothing explains."""

    @property
    def is_sound(self) -> bool:
        """Whether everything is repeated or explained."""
        return not self.differences["unexplained"]


class Report(msgspec.Struct):
    """What a simulation found."""

    candidate: str
    """Version of the candidate."""
    decisions: int = 0
    first_ms: int = 0
    last_ms: int = 0
    versions: Counter[str] = msgspec.field(default_factory=Counter)
    """Decisions by the version of the document that was in force."""
    not_simulated: Counter[str] = msgspec.field(default_factory=Counter)
    """Decisions that stay as they were, by why."""
    suppressed: int = 0
    """Refusals that clients answered from their own memory; the record does not hold them one by one."""
    missing: int = 0
    """Decisions that enforcers announced as dropped."""
    doubled: int = 0
    undecodable: int = 0
    forgotten: int = 0
    """Buckets that were forgotten for want of room although they were not full."""
    policies: dict[str, PolicyChanges] = msgspec.field(default_factory=dict)
    users: dict[str, UserChanges] = msgspec.field(default_factory=dict)
    """Those with changes, at most ``MOST_USERS``."""
    are_users_complete: bool = True
    truth: Truth | None = None


class Simulation:
    """Feeds decisions to a candidate, and to the document that was in force where that is given."""

    def __init__(self, candidate: Policies, recorded: Policies | None = None) -> None:
        """Begin.

        Args:
            candidate: What is to be tried.
            recorded: The document that was in force: its simulation has to repeat the record.
        """
        self.report = Report(candidate.version, truth=Truth() if recorded is not None else None)
        self._candidate = Replay(candidate)
        self._recorded = Replay(recorded) if recorded is not None else None
        self._last_use_ms: dict[str, int] = {}

    def feed(self, record: Recorded) -> None:
        """Take one decision, in the order of time."""
        report = self.report
        report.decisions += 1
        report.first_ms = report.first_ms or record.decided_at_ms
        report.last_ms = record.decided_at_ms
        report.versions[record.policy_version] += 1
        report.suppressed += record.suppressed
        cause = find_cause(record)
        if self._recorded is not None:
            self._check_truth(self._recorded, record, cause)
        if cause in _OUT_OF_REACH:
            report.not_simulated[cause] += 1 if cause != "reported" or record.outcome == "allow" else 1 + record.suppressed
            return
        candidate = self._candidate
        status = candidate.ask(record)
        is_allowed = status == Status.ALLOW
        candidate.settle(is_taken=is_allowed)
        report.forgotten = candidate.forgotten
        changes = report.policies.get(candidate.policy)
        if changes is None:
            changes = report.policies[candidate.policy] = PolicyChanges()
        changes.checks += 1
        if record.outcome == "allow":
            if is_allowed:
                changes.still_allowed += 1
            else:
                changes.now_denied += 1
                changes.refused_content += status == Status.FAILED
                self._count_user(record).now_denied += 1
        elif is_allowed:
            changes.now_allowed += 1
            self._count_user(record).now_allowed += 1
        else:
            changes.still_denied += 1

    def _count_user(self, record: Recorded) -> UserChanges:
        users = self.report.users
        name = record.user_id or " ".join(f"{key}={value}" for key, value in record.attributes.items())
        changes = users.get(name)
        if changes is None:
            if len(users) >= MOST_USERS:
                self.report.are_users_complete = False
                kept = sorted(users, key=lambda user: -(users[user].now_denied + users[user].now_allowed))[: MOST_USERS // 2]
                self.report.users = users = {user: users[user] for user in kept}
            changes = users[name] = UserChanges(first_ms=record.decided_at_ms)
        return changes

    def _check_truth(self, replay: Replay, record: Recorded, cause: Cause | None) -> None:
        truth = self.report.truth
        assert truth is not None  # noqa: S101 it is there with the replay
        if cause is None and record.policy_version != replay.policies.version:
            cause = "other document"
        status = replay.ask(record)
        was_allowed = record.outcome == "allow"
        if cause is None and status == Status.FAILED:
            cause = "invalid"
        if cause is not None:
            truth.not_judged[cause] += 1
        else:
            truth.judged += 1
            if (status == Status.ALLOW) == was_allowed:
                truth.repeated += 1
            else:
                self._explain(truth, replay, record)
        replay.settle(is_taken=was_allowed and not record.degraded)
        if was_allowed:
            for _, _, key in replay.list_margins():
                self._last_use_ms[key] = record.decided_at_ms
            if len(self._last_use_ms) > MOST_BUCKETS:
                self._last_use_ms.clear()

    def _explain(self, truth: Truth, replay: Replay, record: Recorded) -> None:
        """Say why one check was not repeated.

        The record has times in whole milliseconds; what refills in one may decide. Of several enforcers it does not tell which
        came first within one.
        """
        difference: Difference = "unexplained"
        for terms, margin, key in replay.list_margins():
            a_millisecond = -(-1000 * terms.refill // terms.tick_us)
            to_full_ms = -(-terms.capacity_units // terms.refill) * terms.tick_us // 1000
            if -a_millisecond <= margin <= a_millisecond or self._last_use_ms.get(key) == record.decided_at_ms:
                difference = "same millisecond"
                break
            if record.decided_at_ms - self.report.first_ms <= to_full_ms:
                difference = "before the record"
        truth.differences[difference] += 1
        if difference == "unexplained" and len(truth.examples) < MOST_EXAMPLES:
            truth.examples.append(
                f"{record.source} seq {record.seq} at {record.decided_at_ms} ms: {record.action} by {record.user_id!r} was"
                f" {'allowed' if record.outcome == 'allow' else 'denied'}, and is not in the simulation"
            )


_OUT_OF_REACH = frozenset({"banned", "degraded", "open", "reported"})
"""Causes for which a candidate's limits would not have decided either."""


def find_cause(record: Recorded) -> Cause | None:
    """What decided besides the buckets in Redis; None when nothing did."""
    if record.reported:
        return "reported"
    if record.degraded:
        return "degraded"
    if record.outcome == "ban":
        return "banned"
    if record.reason == "open":
        return "open"
    if record.factor != UNLOWERED or record.reason == "throttled":
        return "throttled"
    return "cached" if record.cached else None
