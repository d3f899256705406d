"""Quotas as they stand: who reports which bucket, what each was told, and what the buckets in Redis are still to pay."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from enforcer.calls.decider import Answer, Decider
from enforcer.decisions.decision import Decision, Reading, refuse_incomplete
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.envoy.quota import (
    ALLOW_ALL,
    DENY_ALL,
    LARGEST_DEMAND,
    WHOLE,
    Assignment,
    Shares,
    assign,
    find_payable,
    find_quantum,
    mask_limits,
    measure_burst,
    measure_demand,
    measure_recovery_us,
    tell_apart,
)
from enforcer.envoy.quota_usage import BucketId, Usage, list_decisions
from enforcer.envoy.rls_request import plan_request
from enforcer.limits.bucket import LARGEST_EXACT, UNLOWERED, Status
from enforcer.stores.quota_store import QuotaStore, ShareRequest
from ratchet.envoy import descriptor_pb2, rls_pb2

MOST_STREAMS = 1000
"""Data planes of one enforcer process."""
MOST_BUCKETS = 50_000
"""Buckets of all streams of one enforcer process; the one that was used least lately is abandoned for a new one."""
IDLE_REPORTS = 6
"""After so many reports without a request a bucket is abandoned."""
USUAL_INTERVAL_S = 5.0
"""How often Envoy 1.40 reports, whatever its configuration says."""
LEAST_LIFETIME_S = 15
"""Of an assignment: three of Envoy's intervals, so that a lost report costs nothing."""

INSTALMENT_S = 0.25
"""How often what is paid for as it is used is paid, and changes are followed."""
_STRIDE = 256
"""Buckets of a report that are taken in one go, so that no check waits for long."""
_SHARES_KEPT_MS = (LEAST_LIFETIME_S + 1) * 1000
_LONGEST_INTERVAL_S = 60.0


class Told(NamedTuple):
    """What a data plane is told about one bucket."""

    assignment: Assignment
    lifetime_s: int


@dataclass(eq=False, slots=True)
class Stream:
    """One data plane. ``outbox`` holds what it is to be told, the latest for each bucket; None: abandon it."""

    domain: str
    outbox: dict[BucketId, Told | None] = field(default_factory=dict)
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    buckets: dict[BucketId, Bucket] = field(default_factory=dict)
    call: asyncio.Task[None] | None = None
    """What serves it."""
    is_ended: bool = False
    """Nothing is reported any more."""

    def end(self) -> None:
        """Note that nothing is reported any more."""
        self.is_ended = True
        self.is_ready.set()

    def tell(self, bucket_id: BucketId, told: Told | None) -> None:
        """Put something into the outbox."""
        self.outbox[bucket_id] = told
        self.is_ready.set()


@dataclass(eq=False, slots=True)
class Bucket:
    """One bucket of one data plane."""

    stream: Stream
    bucket_id: BucketId
    plan: Plan
    pools: list[Shares]
    """Of each limit of the plan."""
    reported_s: float
    interval_s: float = USUAL_INTERVAL_S
    reading: Reading | None = None
    """Of the last report."""
    assigned: Assignment | None = None
    expires_s: float = 0.0
    owed: int = 0
    """Requests that were let pass and that no bucket has paid."""
    prepaid: int = 0
    """Requests that the buckets paid before they were reported."""
    expected_per_s: float = 0.0
    paid_s: float = 0.0
    """When the last instalment was paid."""
    idle: int = 0
    """Reports without a request, the last ones."""
    blames_from_us: int = 0
    """Redis time from which the levels show no trace of a factor."""


@dataclass(slots=True)
class QuotaStats:
    """Counts since the start; read by the metrics."""

    reports: int = 0
    allowed: int = 0
    denied: int = 0
    assignments: int = 0
    abandoned: int = 0
    unreadable: int = 0
    """Reports of a bucket without an id that is text."""
    refused_streams: int = 0


@dataclass(slots=True)
class QuotaKeeper:
    """Keeps the quotas of one enforcer process. Belongs to one event loop; nothing of it is on the path of a check."""

    decider: Decider
    store: QuotaStore
    clock: Callable[[], float] = time.monotonic
    """Seconds, of this process."""
    streams: set[Stream] = field(default_factory=set)
    stats: QuotaStats = field(default_factory=QuotaStats)
    _buckets: OrderedDict[Bucket, None] = field(default_factory=OrderedDict)
    """All, the one that was used least lately first."""
    _pools: dict[str, Shares] = field(default_factory=dict)
    """By the key of the limit's bucket."""
    _by_subject: dict[str, set[Bucket]] = field(default_factory=dict)
    _paying: set[Bucket] = field(default_factory=set)
    """Buckets that are paid for in instalments."""
    _swept_s: float = 0.0
    _changed: set[str] = field(default_factory=set)
    """Subjects that something else is held against than before, and keys of pools that are to be divided anew."""

    def __len__(self) -> int:
        return len(self._buckets)

    def end_streams(self) -> None:
        """End all streams: data planes open one again at their next report, where somebody takes it."""
        for stream in self.streams:
            stream.end()
            if stream.call is not None:
                stream.call.cancel()

    def open(self, domain: str) -> Stream | None:
        """Begin a stream; None: there are too many. The task that calls this is what serves it."""
        if len(self.streams) >= MOST_STREAMS:
            self.stats.refused_streams += 1
            return None
        self.store.listen(self._note_change)
        stream = Stream(domain, call=asyncio.current_task())
        self.streams.add(stream)
        return stream

    def _note_change(self, name: str) -> None:
        self._changed.add(name)

    def close(self, stream: Stream) -> None:
        """End a stream. Its shares are free at once: its data plane comes back on another stream, or is gone."""
        self.streams.discard(stream)
        for bucket in list(stream.buckets.values()):
            self._forget(bucket)

    async def report(self, stream: Stream, usages: Sequence[Usage]) -> None:
        """Take one report: count, emit and pay what was used, divide anew, and tell the stream its new assignments."""
        for start in range(0, len(usages), _STRIDE):
            now_s = self.clock()
            reported = [(self._find(stream, usage.bucket_id, now_s), usage) for usage in usages[start : start + _STRIDE]]
            await asyncio.gather(*[self._take_usage(bucket, usage, now_s) for bucket, usage in reported])
            await self._settle([bucket for bucket, _ in reported])

    def _find(self, stream: Stream, bucket_id: BucketId, now_s: float) -> Bucket:
        known = stream.buckets.get(bucket_id)
        if known is not None and known.plan.template.version == self.decider.planner.policies.version:
            return known
        plan = plan_bucket(self.decider.planner, stream.domain, bucket_id)
        pools = [
            self._pools.setdefault(key, Shares(find_quantum(limit.terms)))
            for key, limit in zip(plan.bucket_keys, plan.limits, strict=not plan.template.is_incomplete)
        ]
        bucket = Bucket(stream, bucket_id, plan, pools, now_s)
        if plan.template.is_incomplete:
            bucket.blames_from_us = LARGEST_EXACT  # nobody is to blame, ever
        for pool in pools:
            pool.ask(bucket, WHOLE)
        if known is not None:  # other policies are in force now
            self._forget(known)
            bucket.assigned, bucket.expires_s = known.assigned, known.expires_s
        stream.buckets[bucket_id] = bucket
        self._buckets[bucket] = None
        for subject in plan.subjects:
            self._by_subject.setdefault(subject, set()).add(bucket)
        if len(self._buckets) > MOST_BUCKETS:
            self._abandon(next(iter(self._buckets)))
        return bucket

    def _abandon(self, bucket: Bucket) -> None:
        self._forget(bucket)
        self.stats.abandoned += 1
        bucket.stream.tell(bucket.bucket_id, None)

    def _forget(self, bucket: Bucket) -> None:
        del bucket.stream.buckets[bucket.bucket_id]
        del self._buckets[bucket]
        self._paying.discard(bucket)
        for key, pool in zip(bucket.plan.bucket_keys, bucket.pools, strict=True):
            pool.leave(bucket)
            if not pool.members:
                self._pools.pop(key, None)
        for subject in bucket.plan.subjects:
            holders = self._by_subject[subject]
            holders.discard(bucket)
            if not holders:
                del self._by_subject[subject]

    async def _take_usage(self, bucket: Bucket, usage: Usage, now_s: float) -> None:
        """Pay for what was let pass, emit what was decided, and note what is asked for."""
        self.stats.reports += 1
        self.stats.allowed += usage.allowed
        self.stats.denied += usage.denied
        before, was_active = bucket.reading, now_s < bucket.expires_s
        if before is not None:
            bucket.interval_s = min(max(now_s - bucket.reported_s, 1.0), _LONGEST_INTERVAL_S)
            bucket.expected_per_s = max(usage.allowed / bucket.interval_s, bucket.expected_per_s / 2)
        bucket.reported_s = now_s
        allowed = usage.allowed
        if bucket.assigned is not None and bucket not in self._paying:
            # Nothing was paid as it was used, and no bucket could have held more than a burst until now: the rest is forgiven.
            allowed = min(allowed, measure_burst(bucket.plan, self._list_shares(bucket)))
        owed = bucket.owed + allowed - bucket.prepaid
        bucket.owed, bucket.prepaid = max(0, owed), max(0, -owed)
        reading = await self._pay(bucket)
        since = before if was_active and before is not None and before.now_us >= bucket.blames_from_us else None
        ban = before.ban if was_active and before is not None else None
        for plan, decision in list_decisions(bucket.plan, usage, reading, since, ban, is_degraded=not was_active):
            self.decider.emitter.offer(plan, decision)
        bucket.reading = reading
        if reading.factor < UNLOWERED:
            bucket.blames_from_us = reading.now_us + measure_recovery_us(bucket.plan)
        if bucket not in self._buckets:  # given up meanwhile
            return
        requests = usage.allowed + usage.denied
        if requests:
            self._buckets.move_to_end(bucket)
        bucket.idle = 0 if requests else bucket.idle + 1
        if before is not None:
            for limit, pool in zip(bucket.plan.limits, bucket.pools, strict=False):  # no pool where a subject is absent
                pool.ask(bucket, measure_demand(limit.terms, requests, int(bucket.interval_s * 1_000_000)))

    async def _pay(self, bucket: Bucket) -> Reading:
        """Take what is owed from the buckets in Redis, or as much of it as they hold; what they hold afterwards."""
        plan = bucket.plan
        if not mask_limits(plan) or plan.template.is_incomplete:
            bucket.owed = 0
        paid = max(0, min(bucket.owed, plan.template.smallest_capacity))
        reading = await self._take(plan, paid)
        if paid and reading.status != Status.ALLOW:
            paid = 0 if reading.is_degraded or reading.ban is not None else find_payable(plan, reading, bucket.owed)
            second = await self._take(plan, paid)
            if second.status == Status.ALLOW:
                reading = second
            else:
                paid = 0
        bucket.owed = 0 if reading.is_degraded else bucket.owed - paid
        return reading

    async def _take(self, plan: Plan, cost: int) -> Reading:
        if plan.template.is_incomplete:
            return refuse_incomplete(plan, time.time_ns() // 1000)
        answered: asyncio.Future[Reading | None] = asyncio.get_running_loop().create_future()
        asked = _cost(plan, cost)
        self.decider.store.take(asked, _ignore, lambda _, __, reading: answered.set_result(reading))
        reading = await answered
        if reading is None:
            reading = self.decider.fallback.read(self.decider.fallback.share(asked), time.time_ns() // 1000)
        return reading

    async def _settle(self, buckets: Sequence[Bucket]) -> None:
        """Ask for this enforcer's shares, divide them, and tell these buckets, and others that now have less."""
        now_s = self.clock()
        asking: dict[str, tuple[Shares, list[Bucket]]] = {}
        for bucket in buckets:
            if bucket in self._buckets:
                for key, pool in zip(bucket.plan.bucket_keys, bucket.pools, strict=True):
                    asking.setdefault(key, (pool, []))[1].append(bucket)
        requests = [ShareRequest(key, min(pool.demand, LARGEST_DEMAND), pool.quantum) for key, (pool, _) in asking.items()]
        granted = await self.store.ask(requests, _SHARES_KEPT_MS)
        told: dict[Hashable, None] = {}
        for position, (pool, members) in enumerate(asking.values()):
            pool.granted = WHOLE // self.decider.fallback.enforcers if granted is None else granted[position]
            told.update(dict.fromkeys(pool.divide(members, now_s)))
        told.update(dict.fromkeys(buckets))  # after those who have less, so that they hear of it first
        for each in told:
            if each in self._buckets and isinstance(each, Bucket):
                self._tell(each)

    def _tell(self, bucket: Bucket) -> None:
        if bucket.idle >= IDLE_REPORTS:
            self._abandon(bucket)
            return
        if bucket.reading is None:  # its first report is being taken
            return
        if bucket.expected_per_s * bucket.interval_s > measure_burst(bucket.plan, self._list_shares(bucket)):
            self._paying.add(bucket)
        else:
            self._paying.discard(bucket)
        lifetime_s = max(LEAST_LIFETIME_S, int(3 * bucket.interval_s))
        bucket.assigned = tell_apart(self._choose(bucket, bucket.reading), bucket.assigned)
        bucket.expires_s = self.clock() + lifetime_s
        self.stats.assignments += 1
        bucket.stream.tell(bucket.bucket_id, Told(bucket.assigned, lifetime_s))

    def _choose(self, bucket: Bucket, reading: Reading) -> Assignment:
        without_redis = bucket.plan.template.without_redis
        if bucket.plan.template.is_incomplete or reading.ban is not None:
            return DENY_ALL
        if reading.is_degraded and without_redis == "deny" and mask_limits(bucket.plan):
            return DENY_ALL
        if reading.is_degraded and without_redis == "allow":
            return ALLOW_ALL
        return assign(bucket.plan, reading, self._list_shares(bucket), bucket.owed, bucket.interval_s)

    def _list_shares(self, bucket: Bucket) -> list[int]:
        return [pool.find_share(bucket) for pool in bucket.pools]

    async def leave(self) -> None:
        """Give back what this enforcer has of every limit, and disconnect."""
        await self.store.leave(list(self._pools))
        await self.store.close()

    async def run(self) -> None:
        """Pay instalments, follow changes and forget who is silent, until cancelled."""
        while True:
            await asyncio.sleep(INSTALMENT_S)
            await self.step()

    async def step(self) -> None:
        """Do once what ``run`` does several times a second."""
        now_s = self.clock()
        for bucket in self._paying:
            self._pay_instalment(bucket, now_s)
        if self._changed:
            await self._follow_changes()
        if now_s - self._swept_s > LEAST_LIFETIME_S:
            self._swept_s = now_s
            self._sweep(now_s)

    def _pay_instalment(self, bucket: Bucket, now_s: float) -> None:
        """Let the buckets in Redis pay as requests pass, where they could not hold what passes between two reports."""
        since_s = now_s - max(bucket.paid_s, bucket.reported_s)
        cost = min(int(bucket.expected_per_s * since_s), bucket.plan.template.smallest_capacity)
        if cost < 1 or now_s >= bucket.expires_s:
            return
        bucket.paid_s = now_s
        if bucket.prepaid >= bucket.expected_per_s * (now_s - bucket.reported_s):
            return

        def receive(_: Plan, __: Answer, reading: Reading | None) -> None:
            if reading is not None and reading.status == Status.ALLOW:
                bucket.prepaid += cost

        self.decider.store.take(_cost(bucket.plan, cost), _ignore, receive)

    async def _follow_changes(self) -> None:
        changed, self._changed = self._changed, set()
        held = [bucket for subject in changed for bucket in self._by_subject.get(subject, ())]
        readings = await asyncio.gather(*[self._take(bucket.plan, 0) for bucket in held])
        for bucket, reading in zip(held, readings, strict=True):
            if bucket.reading is not None:
                bucket.reading = reading
        shared = [member for key in changed if (pool := self._pools.get(key)) is not None for member in pool.members]
        await self._settle([*held, *[member for member in shared if isinstance(member, Bucket)]])

    def _sweep(self, now_s: float) -> None:
        for bucket in [bucket for bucket in self._buckets if bucket.reading is not None and bucket.expires_s < now_s]:
            self._abandon(bucket)


def plan_bucket(planner: Planner, domain: str, bucket_id: BucketId) -> Plan:
    """Plan one bucket as the rate limit service plans a request with one descriptor of the same keys and values."""
    entries = [descriptor_pb2.RateLimitDescriptor.Entry(key=key, value=value) for key, value in bucket_id]
    descriptor = descriptor_pb2.RateLimitDescriptor(entries=entries)
    return plan_request(rls_pb2.RateLimitRequest(domain=domain, descriptors=[descriptor]), planner)


def _cost(plan: Plan, cost: int) -> Plan:
    return msgspec.structs.replace(plan, check=msgspec.structs.replace(plan.check, cost=cost))


def _ignore(_: Plan, __: Decision) -> None:
    """Nobody waits for an answer."""
