"""One run of the detector, from its start to its exit code."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from aiokafka.errors import KafkaError
from faust.exceptions import FaustError
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from detector.abuse_store import AbuseStore
from detector.app import FLUSH_EVERY_S, Detector, spec_changelog
from detector.factor_store import FactorStore
from detector.listener import serve
from detector.metrics import Metrics
from detector.publisher import Publisher
from detector.rebuild import keep_intact
from detector.reloading import follow_rules
from detector.rules import Rules
from detector.throttle_keeper import ThrottleKeeper
from lua.address import open_client
from topics.ensure import ensure
from topics.errors import KafkaUnavailable
from topics.specs import DENIALS, SPECS

log = structlog.get_logger("detector")

T = TypeVar("T")

STALLED_AFTER_S = 60.0
"""Without progress, while there is something to read and nobody to wait for."""
ANSWER_WITHIN_S = 5.0
STOP_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator sets.

    Attributes:
        rules: The rules document, followed while it runs.
        kafka: ``host:port[,host:port]``.
        redis: Redis URL, as ``lua.address`` reads it.
        host: Address of the metrics listener.
        metrics_port: Its port; 0 for any.
        instance: Stable name of this process among all detectors; empty for none.
    """

    rules: Path
    kafka: str
    redis: str
    host: str
    metrics_port: int
    instance: str


async def run(settings: Settings, rules: Rules) -> int:
    """Run until SIGTERM, SIGINT or a failure that a restart heals.

    Returns:
        0 after a signal; 1 after a failure: the supervisor is to start the process again.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    is_asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, is_asked.set)
    registry = CollectorRegistry()
    metrics = Metrics(registry, rules)
    troubles = ["starting"]
    async with serve(settings.host, settings.metrics_port, registry, lambda: troubles[0]) as port:
        log.info("listening", metrics=f"http://{settings.host}:{port}/metrics", rules=rules.digest)
        partitions = await _until_stopped(_prepare(settings), stop)
        if partitions is None:
            return 0
        client = open_client(settings.redis, socket_timeout=ANSWER_WITHIN_S, socket_connect_timeout=ANSWER_WITHIN_S)
        publisher = Publisher(settings.kafka)
        try:
            await publisher.start()
            keep_ms = DENIALS.retention_ms + rules.longest_penalty_ms
            owner = f"{settings.instance or 'detector'}/{uuid.uuid4().hex}"
            throttle = ThrottleKeeper(rules, FactorStore(client, owner), publisher.tell)
            metrics.throttled.set_function(lambda: throttle.throttled)
            detector = Detector(
                bootstrap=settings.kafka,
                partitions=partitions,
                instance=settings.instance,
                rules=rules,
                store=AbuseStore(client, keep_ms=keep_ms),
                publisher=publisher,
                throttle=throttle,
                metrics=metrics,
            )
            keepers = {
                asyncio.create_task(keep_intact(client, settings.kafka, keep_ms=keep_ms), name="keep Redis intact"),
                asyncio.create_task(follow_rules(settings.rules, detector, metrics, is_asked), name="follow the rules"),
                asyncio.create_task(detector.end_bans_of_exempt(), name="end bans of exempt subjects"),
            }
            try:
                return await _turn(detector, metrics, stop, troubles, keepers)
            finally:
                for task in keepers:
                    task.cancel()
                await asyncio.wait(keepers)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_WITHIN_S):
                    await publisher.stop()
            await client.aclose()


async def _prepare(settings: Settings) -> int:
    """Wait for Kafka and Redis, however long; make the topics. Gives the number of partitions of ``denials``."""
    while True:
        try:
            report = await ensure(settings.kafka, SPECS, wait_s=30.0, tell=lambda message: log.warning("waiting", what=message))
            partitions = report.partitions[DENIALS.name]
            await ensure(settings.kafka, (spec_changelog(partitions),))
            break
        except KafkaUnavailable as error:
            log.warning("waiting", what=str(error))
    for difference in report.differences:
        if difference.is_harmful:
            log.warning("topic_differs", topic=difference.topic, what=difference.what, remedy=difference.remedy)
    has_told = False
    while True:
        try:
            async with open_client(settings.redis, socket_timeout=ANSWER_WITHIN_S) as client:
                await client.ping()
        except (RedisError, OSError) as error:
            if not has_told:
                log.warning("waiting", what=f"Redis does not answer at {settings.redis.rpartition('@')[2]} yet: {error}")
            has_told = True
            await asyncio.sleep(0.5)
        else:
            return partitions


async def _flush_after_pause(detector: Detector) -> str:
    """Give the reason when it failed."""
    await asyncio.sleep(FLUSH_EVERY_S)
    try:
        await detector.flush()
    except (KafkaError, FaustError, OSError, TimeoutError) as error:
        return f"state could not be written: {type(error).__name__}: {error}"
    return ""


async def _until_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """Do some work, or drop it when the process is to end: then there is no result."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task})
    return None


class _Watch:
    """Looks at a detector twice a second: feeds its gauges, and says when it has to end."""

    def __init__(self, detector: Detector, metrics: Metrics) -> None:
        self._detector = detector
        self._metrics = metrics
        self._handled = 0
        self._moved_at = time.monotonic()

    def look(self) -> str:
        """Give the reason why the process has to end; empty while it need not."""
        detector = self._detector
        lag = detector.measure_lag()
        self._metrics.lag.set(lag)
        self._metrics.subjects.set(detector.count_subjects())
        self._metrics.partitions.set(len(detector.partitions))
        self._metrics.is_waiting.set(detector.is_waiting)
        # While Redis or Kafka is away a restart would not help.
        has_nothing_to_do = not lag and detector.is_reading
        if detector.handled != self._handled or has_nothing_to_do or detector.is_waiting:
            self._handled, self._moved_at = detector.handled, time.monotonic()
        if detector.app.crashed or detector.app.should_stop:
            return f"the app ended: {detector.app.crash_reason!r}"
        if time.monotonic() - self._moved_at > STALLED_AFTER_S:
            what = f"{lag} are waiting" if detector.is_reading else "the group has not settled"
            return f"no record was handled for {STALLED_AFTER_S:g} s, and {what}"
        return ""


async def _turn(
    detector: Detector, metrics: Metrics, stop: asyncio.Event, troubles: list[str], keepers: set[asyncio.Task[None]]
) -> int:
    """Flush on time, until a signal or a failure, also of a task that never ends by itself."""
    await detector.start()
    watch = _Watch(detector, metrics)
    is_ready = False
    while True:
        # Kafka may be away in the middle of a flush: that must not keep a signal waiting.
        failure = await _until_stopped(_flush_after_pause(detector), stop)
        if failure is None:
            log.info("detector_stops")
            break
        troubles[0] = _find_trouble(detector)
        if not troubles[0] and not is_ready:
            is_ready = True
            log.info("detector_ready", partitions=sorted(detector.partitions))
        failure = failure or watch.look()
        for keeper in keepers:
            if keeper.done():
                failure = f"it does not {keeper.get_name()} any more: {keeper.exception()!r}"
        if failure:
            log.error("detector_failed", reason=failure)
            break
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await detector.stop()
    except TimeoutError:
        log.warning("stop_took_too_long", seconds=STOP_WITHIN_S)
    log.info("detector_stopped", records=detector.handled)
    return 1 if failure else 0


def _find_trouble(detector: Detector) -> str:
    if detector.is_waiting:
        return "waiting for Redis or Kafka"
    return "" if detector.is_reading else "joining the group"
