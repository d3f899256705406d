"""What can be wrong with Kafka, in words that an operator can act on."""

from __future__ import annotations


class KafkaUnavailable(Exception):  # noqa: N818 - says what is the case, like the store's error
    """No broker answered in time. Nothing was read or changed; calling again later is safe."""

    def __init__(self, bootstrap: str, cause: object) -> None:
        """Say what was tried and what to check.

        Args:
            bootstrap: The address that was tried, ``host:port[,host:port]``.
            cause: What the client said last.
        """
        # The client's message goes on with the address as its own structures.
        reason = str(cause).partition(" from [")[0] or type(cause).__name__
        super().__init__(
            f"Kafka does not answer at {bootstrap} ({reason}). Check that the broker runs, that --bootstrap or KAFKA_BOOTSTRAP "
            "names its address, and that its advertised.listeners can be reached from here."
        )


class TopicMissing(Exception):  # noqa: N818 - see above
    """The topic is not on the broker. Make it (`python -m topics ensure`) before calling again."""

    def __init__(self, topic: str, bootstrap: str) -> None:
        """Name the topic and the broker that lacks it."""
        super().__init__(f"there is no topic {topic!r} at {bootstrap}: make it with `python -m topics ensure`")


class HistoryLost(Exception):  # noqa: N818 - see above
    """Retention dropped records while they were being read. What was read so far proves nothing: start again."""
