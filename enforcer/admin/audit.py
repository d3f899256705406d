"""Tell Kafka what people changed: topics ``verdicts`` and ``subjects``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from enforcer.events.producer import EmissionFailed, KafkaLog
from topics.abuse import wrap_state
from topics.events import VerdictEvent
from topics.partition import choose_partition
from topics.specs import SUBJECTS, VERDICTS

ANSWER_WITHIN_S = 5.0


class KafkaAway(Exception):  # noqa: N818 it says what is the case
    """Kafka did not confirm. The events may be there by now or later: tell them again, readers tell doubles by their ids."""


@dataclass(slots=True)
class Audit:
    """Writes through the enforcer's own producer. Belongs to one event loop."""

    kafka: KafkaLog
    _sending: set[asyncio.Task[Any]] = field(default_factory=set)

    async def tell(self, event: VerdictEvent, state: bytes = b"") -> None:
        """Write one change, and return when all replicas have it.

        Args:
            event: What was changed, by whom, why.
            state: JSON of the subject's ``AbuseState`` as it is now; empty when that has not changed.

        Raises:
            KafkaAway: It is not confirmed within five seconds. Tell it again.
        """
        if not self.kafka.is_connected:
            raise KafkaAway("Kafka is away")
        key = event.subject.encode()
        records = [(VERDICTS.name, event.model_dump_json().encode())]
        if state:
            records.append((SUBJECTS.name, wrap_state(event.subject, state)))
        sends = [
            self.kafka.send(topic, choose_partition(key, self.kafka.partitions[topic]), [(key, value)])
            for topic, value in records
        ]
        try:
            await asyncio.wait_for(self._send(sends), ANSWER_WITHIN_S)
        except TimeoutError as error:
            raise KafkaAway(f"Kafka has not confirmed within {ANSWER_WITHIN_S:g} s") from error
        except EmissionFailed as error:
            raise KafkaAway(f"Kafka: {error}") from error

    async def _send(self, sends: Sequence[Coroutine[Any, Any, None]]) -> None:
        # A batch that is being sent cannot be called back: it goes on, also when its caller no longer waits.
        tasks = [asyncio.ensure_future(send) for send in sends]
        self._sending.update(tasks)
        for task in tasks:
            task.add_done_callback(self._finish)
        await asyncio.shield(asyncio.gather(*tasks))

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            task.exception()
