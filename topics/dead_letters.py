"""Build the record that tells of a record which could not be decoded or handled. Pure."""

from __future__ import annotations

from base64 import b64encode
from typing import Protocol

from topics.events import DeadLetter

LARGEST_PART_BYTES = 65_536
"""Of the key and of the value that are kept: both, in base64, are well below what a topic takes."""

LONGEST_ERROR_CHARS = 1_000


class Record(Protocol):
    """Any consumed record: aiokafka's ``ConsumerRecord`` and Faust's ``Message`` are such."""

    @property
    def topic(self) -> str:
        """Name of the topic that it was read from."""

    @property
    def partition(self) -> int:
        """Partition that it was read from."""

    @property
    def offset(self) -> int:
        """Its offset there."""

    @property
    def key(self) -> bytes | None:
        """Its key, undecoded."""

    @property
    def value(self) -> bytes | None:
        """Its value, undecoded."""


def bury(record: Record, error: str | Exception, *, at_ms: int) -> bytes:
    """Build the value of a dead letter. Never raises on any bytes, so that a bad record cannot stop its reader.

    Send it to topic ``dead_letters`` with the key that :func:`name_origin` gives, and go on with the next record.

    Args:
        record: The record, undecoded; key and value are kept up to 64 KiB each.
        error: What was wrong with it; kept up to 1,000 characters.
        at_ms: Now, in milliseconds since the Unix epoch.
    """
    value = record.value or b""
    text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error
    return (
        DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            # Surrogates cannot be written as UTF-8; an error that quotes the record may hold them.
            error=text[:LONGEST_ERROR_CHARS].encode(errors="backslashreplace").decode(),
            at_ms=at_ms,
            key_base64=b64encode((record.key or b"")[:LARGEST_PART_BYTES]).decode(),
            value_base64=b64encode(value[:LARGEST_PART_BYTES]).decode(),
            value_bytes=len(value),
        )
        .model_dump_json(exclude_defaults=False)
        .encode()
    )


def name_origin(record: Record) -> bytes:
    """Give a dead letter's key, ``topic/partition/offset``: a record that is buried twice has one key."""
    return f"{record.topic}/{record.partition}/{record.offset}".encode()
