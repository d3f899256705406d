"""Kafka for the enforcer: record batches, built per partition, sent by the idempotent producer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from topics.ensure import ensure
from topics.errors import KafkaUnavailable
from topics.specs import DECISIONS, DENIALS

LARGEST_BATCH_BYTES = 512 * 1024
"""Uncompressed; half of what the topics take."""

_RECONNECT_S = (0.2, 0.5, 1.0, 2.0)
_ANSWER_WITHIN_S = 10
"""How long one request waits for its broker; then the same batch is sent again, and the broker knows it by its number."""

log = structlog.get_logger(__name__)

Record = tuple[bytes | None, bytes]
"""Key and value."""


class EmissionFailed(Exception):  # noqa: N818 it says what happened
    """Kafka refused a batch for good. It may still be in the topic: do not send it again, announce its events."""


@dataclass(slots=True)
class KafkaLog:
    """Sends batches of records; waits for the acknowledgement of all replicas. Belongs to one event loop."""

    bootstrap: str
    client_id: str
    partitions: dict[str, int] = field(default_factory=dict)
    """Of each topic, as the broker has it; empty before the first connection."""
    _producer: AIOKafkaProducer | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a producer stands."""
        return self._producer is not None

    async def connect(self) -> None:
        """Make the topics that are missing and start the producer; tries until it succeeds, and says so once."""
        attempt = 0
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self.bootstrap,
                client_id=self.client_id,
                acks="all",
                enable_idempotence=True,
                compression_type="zstd",
                max_batch_size=LARGEST_BATCH_BYTES,
                max_request_size=2 * LARGEST_BATCH_BYTES,
                request_timeout_ms=_ANSWER_WITHIN_S * 1000,
                linger_ms=0,
                retry_backoff_ms=50,
                metadata_max_age_ms=30_000,
            )
            # aiokafka gives a batch up after one request timeout, when it may be in the topic or not. Only a batch that is
            # sent until it is acknowledged is there exactly once; what waits behind it waits in the spool.
            producer._message_accumulator._batch_ttl = math.inf  # noqa: SLF001 there is no setting for it
            try:
                report = await ensure(self.bootstrap)
                await producer.start()
            except (KafkaError, KafkaUnavailable, OSError) as error:
                await producer.stop()
                if attempt in {0, 5} or attempt % 60 == 0:
                    log.warning("kafka_unreachable", error=str(error) or type(error).__name__, events="are buffered")
                await asyncio.sleep(_RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)])
                attempt += 1
                continue
            self.partitions = dict(report.partitions)
            self._producer = producer
            log.info("kafka_connected", partitions={spec.name: self.partitions[spec.name] for spec in (DECISIONS, DENIALS)})
            return

    async def send(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Send records to one partition, in order, and wait until all replicas have them, however long Kafka is away.

        Raises:
            EmissionFailed: Refused for good.
        """
        assert self._producer is not None  # noqa: S101 connect() came first
        try:
            pending = []
            batch = self._producer.create_batch()
            for key, value in records:
                if batch.append(key=key, value=value, timestamp=None) is None:
                    pending.append(await self._producer.send_batch(batch, topic, partition=partition))
                    batch = self._producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None)
            pending.append(await self._producer.send_batch(batch, topic, partition=partition))
            await asyncio.gather(*pending)
        except (KafkaError, OSError) as error:
            raise EmissionFailed(f"{topic}/{partition}: {error}") from error

    async def close(self) -> None:
        """Stop the producer; what was sent has been acknowledged before."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()
