"""Find Kafka, or say in plain words that it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from topics.errors import KafkaUnavailable

ATTEMPT_TIMEOUT_MS = 5_000
"""Of one request while looking for the broker: something that listens there but does not speak Kafka is given up on."""

RETRY_PAUSE_S = 0.25

Tell = Callable[[str], None]


def keep_silent(_message: str) -> None:
    """Tell nobody."""


@asynccontextmanager
async def open_admin(bootstrap: str, *, wait_s: float = 0.0, tell: Tell = keep_silent) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open an admin client once a broker answers, and close it at the end.

    Args:
        bootstrap: ``host:port[,host:port]``.
        wait_s: How long to keep trying; at 0 there is one attempt.
        tell: Is told once when there is something to wait for.

    Raises:
        KafkaUnavailable: No broker answered in that time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    has_told = False
    while True:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=ATTEMPT_TIMEOUT_MS)
        try:
            await admin.start()
            await _require_brokers(admin)
        except (KafkaError, OSError, TimeoutError) as error:
            await admin.close()
            if loop.time() >= deadline:
                raise KafkaUnavailable(bootstrap, error) from error
            if not has_told:
                tell(f"Kafka does not answer at {bootstrap} yet; trying for {wait_s:g} s")
                has_told = True
            await asyncio.sleep(RETRY_PAUSE_S)
        else:
            break
    try:
        yield admin
    finally:
        await admin.close()


async def _require_brokers(admin: AIOKafkaAdminClient) -> None:
    # A broker that is still starting accepts connections before it knows of any broker.
    if not (await admin.describe_cluster())["brokers"]:
        raise KafkaError("no broker has registered yet")
