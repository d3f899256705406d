"""The Faust app: one agent per partition of ``denials``, and a flush that writes state and commits every half second.

Faust reads, spreads partitions over processes and recovers state from the table's changelog. Its acks are off: it would ack
what it skips in a rebalance, and commit one too many when acks come out of order. Offsets are committed here instead, after
the state that includes them is confirmed, so they never pass it:

    rows -> progress -> commit

and a record is accepted into the state only when its effects are in Redis and in Kafka. After a crash the rest is read again,
and finds in rows and stored findings what it did before.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import faust
import structlog
from faust.types import TP

from detector.abuse_store import AbuseStore, Applied, OffenceRefused, RedisAway
from detector.allowlist import Allowlist
from detector.ladder import Offence, judge_exempt
from detector.metrics import Metrics
from detector.publisher import KafkaAway, Notice, Publisher
from detector.records import UndecodableRecord, decode_denials
from detector.rules import Exemption, Ladder, Rules
from detector.shard import Shard, Weighing
from detector.throttle_keeper import ThrottleKeeper
from detector.verdict import make_event, make_offence
from topics.specs import DENIALS, FOREVER_MS, OUTCOMES, TopicSpec

log = structlog.get_logger("detector")

GROUP = "ratchet-detector"
TABLE = "windows"
FLUSH_EVERY_S = 0.5
NO_PARTITION = -1
"""Waits for Redis or Kafka without a partition that stands still."""
SEEK_AGAIN_AFTER_S = 1.0
LONGEST_PAUSE_S = 2.0

T = TypeVar("T")


def spec_changelog(partitions: int) -> TopicSpec:
    """Say what the table's changelog has to be: as many partitions as ``denials``, the last value of each key kept for good."""
    return TopicSpec(
        name=f"{GROUP}-{TABLE}-changelog",
        key="partition/subject",
        partitions=partitions,
        retention_ms=FOREVER_MS,
        cleanup="compact",
        purpose="The detector's windows, read when it starts.",
    )


class Detector:
    """One detector process: counts denials, applies verdicts, tells of them.

    Promises: an offence that is in ``denials`` has its effect once, whatever dies in between. The agent never raises.
    """

    def __init__(
        self,
        *,
        bootstrap: str,
        partitions: int,
        instance: str,
        rules: Rules,
        store: AbuseStore,
        publisher: Publisher,
        throttle: ThrottleKeeper,
        metrics: Metrics,
    ) -> None:
        """Build the app; it runs from :meth:`start` on.

        Args:
            bootstrap: Kafka, ``host:port[,host:port]``.
            partitions: Of ``denials``, as the broker has it.
            instance: Stable name of this process among all detectors, so that its restart moves no partition; empty for none.
            rules: What is counted.
            store: Redis.
            publisher: Kafka, for what is told.
            throttle: Told of every record of ``outcomes``.
            metrics: Where things are counted.
        """
        self.rules = rules
        """What is counted; change them with :meth:`put_in_force`."""
        self._allowlist = Allowlist(rules.allowlist)
        self._exempting = asyncio.Event()
        self._store = store
        self._publisher = publisher
        self._throttle = throttle
        self._metrics = metrics
        self._shards: dict[int, Shard] = {}
        self._waiting: set[int] = set()
        self._is_flushing = asyncio.Lock()
        self._is_torn = False
        self._is_joining = False
        """Partitions were revoked, and none assigned since."""
        self.handled = 0
        """Records handled since the start; what the watch on progress compares."""
        self._sought_until: dict[int, float] = {}
        self.app = faust.App(
            GROUP,
            broker=[f"kafka://{address}" for address in bootstrap.split(",")],
            store="memory://",
            # The memory store keeps nothing there, but Faust makes the directory.
            datadir=tempfile.gettempdir(),
            autodiscover=False,
            web_enabled=False,
            topic_disable_leader=True,
            topic_partitions=partitions,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=instance or None,
            # A dead process is noticed after 6 s instead of a minute.
            broker_session_timeout=6.0,
            broker_heartbeat_interval=2.0,
            broker_rebalance_timeout=10.0,
            # A standby would hold the state of partitions that it does not read.
            table_standby_replicas=0,
            # Nothing may wait for acks that never come.
            stream_wait_empty=False,
            producer_compression_type="lz4",
            # Kafka may be away for so long before a flush gives up, and the process with it.
            producer_request_timeout=60.0,
        )
        self._topic = self.app.topic(
            DENIALS.name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=False
        )
        self._table = self.app.Table(TABLE, key_type=bytes, value_type=bytes, partitions=partitions)
        self.app.agent(self._topic, name="count_denials", isolated_partitions=True)(self._count_denials)
        outcomes = self.app.topic(
            OUTCOMES.name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=False
        )
        self.app.agent(outcomes, name="follow_outcomes")(self._follow_outcomes)
        signals: Any = self.app
        signals.on_partitions_revoked.connect(self._on_revoked)
        signals.on_partitions_assigned.connect(self._on_assigned)

    async def start(self) -> None:
        """Join the group and begin to read; returns before partitions are assigned."""
        self.app.finalize()
        self.app.in_worker = True
        await self.app.start()

    async def stop(self) -> None:
        """Write down what is accepted, commit, leave the group."""
        await self.flush()
        await self.app.stop()

    @property
    def partitions(self) -> frozenset[int]:
        """Partitions of ``denials`` that this process reads."""
        if self.app.rebalancing or not self.app.consumer.started:
            return frozenset()
        return frozenset(tp.partition for tp in self.app.consumer.assignment() if tp.topic == DENIALS.name)

    @property
    def is_reading(self) -> bool:
        """Whether partitions are assigned and their state is recovered. A standby, without partitions, counts as reading."""
        tables: Any = self.app.tables
        return bool(tables.actives_ready) and not self.app.rebalancing

    @property
    def is_waiting(self) -> bool:
        """Whether a partition is waiting for Redis or Kafka."""
        return bool(self._waiting)

    def measure_lag(self) -> int:
        """Records in the assigned partitions that are not handled yet; of partitions where one was ever read."""
        consumer: Any = self.app.consumer
        lag = 0
        for partition in self.partitions:
            place = TP(DENIALS.name, partition)
            shard = self._shards.get(partition)
            # An agent that died before its first record leaves no shard, and must be noticed too.
            following = shard.offset + 1 if shard else consumer._committed_offset.get(place)  # noqa: SLF001 - where Faust began
            if following is not None:
                lag += max(0, (consumer.highwater(place) or 0) - following)
        return lag

    def count_subjects(self) -> int:
        """Subjects that are remembered in all partitions."""
        return sum(map(len, self._shards.values()))

    def put_in_force(self, rules: Rules) -> None:
        """Count by other rules, each partition from its next record on."""
        self.rules = rules
        self._allowlist = Allowlist(rules.allowlist)
        self._store.keep_ms = DENIALS.retention_ms + rules.longest_penalty_ms
        self._metrics.show_rules(rules)
        self._exempting.set()

    async def end_bans_of_exempt(self) -> None:
        """End the bans of exempt subjects whenever other rules come into force, until it is cancelled.

        Of networks it knows the subjects that were seen: those that the partitions of this process remember.
        """
        while True:
            await self._exempting.wait()
            self._exempting.clear()
            seen = {subject for shard in self._shards.values() for subject in shard.list_subjects()}
            for subject, exemption in self._allowlist.list_subjects(seen, time.time_ns() // 1_000_000).items():
                try:
                    await self._retry(NO_PARTITION, partial(self._end_bans, subject, exemption))
                except OffenceRefused as error:
                    log.warning("bans_not_ended", subject=subject, error=str(error))

    async def _end_bans(self, subject: str, exemption: Exemption) -> None:
        await self._store.require_intact()
        lifted = await self._store.end_bans(subject, exemption)
        if lifted is not None:
            await self._publisher.tell([Notice(lifted.verdict, lifted.state)])
            log.info("bans_ended", subject=subject, actor=exemption.actor, reason=exemption.reason)

    async def flush(self) -> None:
        """Write down what changed, and commit what is written. One at a time, and not while the group rebalances.

        Cut short, by an error or a cancel, it has drained rows that are written nowhere. Nothing is flushed after that, so no
        offset can pass them: end the process, its successor reads the records again.
        """
        async with self._is_flushing:
            if self._is_torn or self._is_joining:
                return
            self._is_torn = True
            with self._metrics.flush_seconds.time():
                await self._flush()
            self._is_torn = False

    async def _flush(self) -> None:
        # Draining all shards before the first await makes this one moment in time.
        drained = {partition: shard.drain() for partition, shard in self._shards.items()}
        rows = [
            self._table.send_changelog(partition, _name_key(partition, subject), row)
            for partition, changes in drained.items()
            for subject, row in changes.rows.items()
        ]
        await asyncio.gather(*rows)
        progress = [
            self._table.send_changelog(partition, _name_key(partition, ""), changes.progress)
            for partition, changes in drained.items()
            if changes.progress is not None
        ]
        await asyncio.gather(*progress)
        offsets = {
            TP(DENIALS.name, partition): changes.offset + 1 for partition, changes in drained.items() if changes.offset >= 0
        }
        offsets |= {TP(OUTCOMES.name, partition): offset + 1 for partition, offset in self._throttle.offsets.items()}
        if offsets:
            consumer: Any = self.app.consumer
            await consumer._commit(offsets)  # noqa: SLF001 - the public one commits what Faust believes was acked

    async def _count_denials(self, stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            await self._handle(event.message)

    async def _follow_outcomes(self, stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            message = event.message
            taken_ms, now_ms = int((message.timestamp or 0) * 1000), time.time_ns() // 1_000_000
            try:
                await self._throttle.follow(message.partition, message.offset, message.value, taken_ms=taken_ms, now_ms=now_ms)
            except UndecodableRecord as error:
                await self._set_aside(message, error, "undecodable")
            except Exception as error:  # the process's edge: one record must not stop all that follow it
                log.exception("record_failed", topic=OUTCOMES.name, partition=message.partition, offset=message.offset)
                await self._set_aside(message, error, "failed")

    async def _handle(self, message: faust.types.Message) -> None:
        partition, offset = message.partition, message.offset
        shard = self._find_shard(message)
        if not await self._is_next(message, shard):
            return
        if shard.rules is not self.rules:
            shard.swap(self.rules)
        taken_ms = int((message.timestamp or 0) * 1000)
        try:
            record = decode_denials(message.value)
            weighing = shard.weigh(offset, record, taken_ms=taken_ms)
            if weighing.kind == "reread" and self.app.consumer.highwater(message.tp) <= shard.offset:
                log.error("topic_made_anew", topic=DENIALS.name, partition=partition, offset=offset, known=shard.offset)
                shard.forget()
                weighing = shard.weigh(offset, record, taken_ms=taken_ms)
            await self._punish(message, weighing, shard.rules)
        except UndecodableRecord as error:
            await self._set_aside(message, error, "undecodable")
            shard.skip(offset)
        except Exception as error:  # the process's edge: one record must not stop all that follow it
            log.exception("record_failed", partition=partition, offset=offset)
            await self._set_aside(message, error, "failed")
            shard.skip(offset)
        else:
            evicted = shard.evicted
            shard.accept(weighing)
            self._count(weighing, shard.evicted - evicted)
        self.handled += 1

    def _find_shard(self, message: faust.types.Message) -> Shard:
        partition = message.partition
        shard = self._shards.get(partition)
        if shard is None:
            store: Any = self._table.data
            prefix = _name_key(partition, "")
            # Faust reads rows back when it starts, and nobody else needs them: taken out, they are not held twice.
            rows = {key[len(prefix) :].decode(): store.data.pop(key) for key in list(store.data) if key.startswith(prefix)}
            progress = rows.pop("", None)
            shard = self._shards[partition] = Shard(partition, self.rules, rows, progress)
            self._exempting.set()
            log.info("partition_taken", partition=partition, subjects=len(shard), offset=message.offset, included=shard.offset)
            # Heartbeats alone are committed without a progress of their own: what is committed is included.
            consumer: Any = self.app.consumer
            committed = consumer._committed_offset.get(message.tp)  # noqa: SLF001 - where Faust began to read
            shard.skip((committed or 0) - 1)
        return shard

    async def _is_next(self, message: faust.types.Message, shard: Shard) -> bool:
        """Whether nothing is missing before a record; if something is, read again from there.

        Faust drops records that it fetched around a rebalance. They are still in Kafka, unless retention took them.
        """
        expected = shard.offset + 1
        if message.offset <= expected:
            return True
        loop = asyncio.get_running_loop()
        if loop.time() < self._sought_until.get(message.partition, 0.0):
            return False
        earliest = (await self.app.consumer.earliest_offsets(message.tp))[message.tp]
        if earliest is not None and earliest > expected:
            if message.offset > earliest:
                expected = earliest
            else:
                log.error("records_expired", partition=message.partition, expected=expected, earliest=earliest)
                return True
        log.warning("reading_again", partition=message.partition, expected=expected, offset=message.offset)
        await self.app.consumer.seek_wait({message.tp: expected})
        # Records that were fetched before still come, and are left alone; should they outrun the seek, it is repeated.
        self._sought_until[message.partition] = loop.time() + SEEK_AGAIN_AFTER_S
        return False

    async def _punish(self, message: faust.types.Message, weighing: Weighing, rules: Rules) -> None:
        """Apply what was crossed, in order, and tell of it. Comes back only when Redis and Kafka have it."""
        if not weighing.crossings or weighing.origin is None:
            return
        notices = []
        for crossing in weighing.crossings:
            offence = make_offence(crossing, weighing.origin, rules)
            try:
                if self._allowlist.find(offence.subject, offence.at_ms):
                    applied = Applied(judge_exempt(offence), b"", is_repeat=False)
                else:
                    applied = await self._apply(message.partition, offence, rules.find_ladder(crossing.watch.rule))
            except OffenceRefused as error:
                self._metrics.verdicts.labels(offence.rule, "refused").inc()
                await self._set_aside(message, error, "failed")
                continue
            is_change = applied.finding.result in {"applied", "already_over"}
            verdict = make_event(crossing, weighing.origin, offence, applied.finding, rules)
            notices.append(Notice(verdict, applied.state if is_change else b""))
            self._metrics.verdicts.labels(offence.rule, "repeat" if applied.is_repeat else applied.finding.result).inc()
            if applied.finding.result == "applied" and not applied.is_repeat:
                self._metrics.delay_seconds.observe(max(0, applied.finding.applied_at_ms - offence.at_ms) / 1000)
            log.info(
                "offence",
                subject=offence.subject,
                rule=offence.rule,
                result=applied.finding.result,
                penalty=applied.finding.penalty,
                rung=applied.finding.rung,
                until_ms=applied.finding.until_ms,
                verdict_id=offence.verdict_id,
                is_repeat=applied.is_repeat,
            )
        await self._retry(message.partition, lambda: self._publisher.tell(notices))

    async def _apply(self, partition: int, offence: Offence, ladder: Ladder) -> Applied:
        async def apply() -> Applied:
            await self._store.require_intact()
            return await self._store.apply(offence, ladder)

        return await self._retry(partition, apply)

    async def _set_aside(self, message: faust.types.Message, error: Exception, kind: str) -> None:
        self._metrics.records.labels(kind).inc()
        log.warning("record_set_aside", partition=message.partition, offset=message.offset, kind=kind, error=str(error))
        await self._retry(message.partition, lambda: self._publisher.bury(message, error))

    async def _retry(self, partition: int, call: Callable[[], Awaitable[T]]) -> T:
        """Call until Redis and Kafka answer. Meanwhile the partition stands still, and its records wait in Kafka."""
        pause_s = 0.05
        try:
            while True:
                try:
                    return await call()
                except (RedisAway, KafkaAway) as error:
                    if partition not in self._waiting:
                        log.warning("waiting", partition=partition, what=type(error).__name__, error=str(error))
                    self._waiting.add(partition)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        finally:
            if partition in self._waiting:
                self._waiting.discard(partition)
                log.info("waited", partition=partition)

    def _count(self, weighing: Weighing, evicted: int) -> None:
        metrics = self._metrics
        metrics.records.labels(weighing.kind).inc()
        metrics.missing.inc(weighing.missing)
        metrics.ahead.inc(weighing.ahead)
        metrics.evicted.inc(evicted)
        for rule, count in weighing.denials.items():
            metrics.denials.labels(rule).inc(count)
        for rule, count in weighing.late.items():
            metrics.late.labels(rule).inc(count)

    async def _on_revoked(self, _app: object, revoked: set[TP], **_: object) -> None:
        # The next owner starts from what is committed: the more is written down now, the less it reads again.
        if any(tp.topic == DENIALS.name for tp in revoked):
            await self.flush()
        # A commit under the old generation, sent while the new one is joined, makes aiokafka forget the new one as soon as it
        # has it and join again; with a flush every half second that never ends.
        self._is_joining = True

    async def _on_assigned(self, _app: object, assigned: set[TP], **_: object) -> None:
        self._is_joining = False
        self._throttle.keep({tp.partition for tp in assigned if tp.topic == OUTCOMES.name})
        kept = {tp.partition for tp in assigned if tp.topic == DENIALS.name}
        for partition in self._shards.keys() - kept:
            del self._shards[partition]


def _name_key(partition: int, subject: str) -> bytes:
    """Key of a row in the table; without subject, of the partition's progress. Rows of all partitions share one store."""
    return f"{partition}/{subject}".encode()
