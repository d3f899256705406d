"""Kafka, for what the detector tells: verdicts, states of subjects, dead letters. Every call returns when the broker has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from topics.abuse import wrap_state
from topics.dead_letters import Record, bury, name_origin
from topics.events import VerdictEvent
from topics.specs import DEAD_LETTERS, SUBJECTS, VERDICTS


class KafkaAway(Exception):  # noqa: N818 - says what is the case
    """The broker did not confirm. The events may be there: send them again, readers tell doubles by their ids."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What one offence has to tell.

    Attributes:
        verdict: The audit's entry.
        state: JSON of the subject's state; empty when nothing changed.
    """

    verdict: VerdictEvent
    state: bytes


class Publisher:
    """An idempotent producer, acks from all replicas."""

    def __init__(self, bootstrap: str) -> None:
        # Without linger: a verdict is rare, and the record that led to it waits for the acks.
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            client_id="ratchet-detector",
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            request_timeout_ms=5_000,
        )

    async def start(self) -> None:
        """Connect.

        Raises:
            KafkaError: No broker answers.
        """
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is pending, and disconnect."""
        await self._producer.stop()

    async def tell(self, notices: Sequence[Notice]) -> None:
        """Write verdicts and states, keyed by subject.

        Raises:
            KafkaAway: Not all of it is confirmed. Call again with all of it before going on.
        """
        records = [(VERDICTS.name, notice.verdict.subject, notice.verdict.model_dump_json().encode()) for notice in notices]
        records += [
            (SUBJECTS.name, notice.verdict.subject, wrap_state(notice.verdict.subject, notice.state))
            for notice in notices
            if notice.state
        ]
        try:
            acks = [await self._producer.send(topic, value, key=subject.encode()) for topic, subject, value in records]
            await asyncio.gather(*acks)
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaAway(f"{type(error).__name__}: {error}") from error

    async def bury(self, record: Record, error: str | Exception) -> None:
        """Set a record aside in ``dead_letters``, with its origin.

        Raises:
            KafkaAway: Not confirmed. Call again before going on: the record would be lost.
        """
        value = bury(record, error, at_ms=time.time_ns() // 1_000_000)
        try:
            await self._producer.send_and_wait(DEAD_LETTERS.name, value, key=name_origin(record))
        except (KafkaError, OSError, TimeoutError) as failure:
            raise KafkaAway(f"{type(failure).__name__}: {failure}") from failure
