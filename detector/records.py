"""Read the records of topic ``denials``. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lua.keys import is_subject
from topics.wire import DenialRecord, FoldsEvent

_decode: Callable[[bytes], DenialRecord] = msgspec.json.Decoder(DenialRecord).decode


class UndecodableRecord(Exception):  # noqa: N818 - says what is the case
    """No record of topic ``denials``, or one that nobody can have meant. Set it aside and go on: it stays so."""


def decode_denials(value: bytes | None) -> DenialRecord:
    """Read one record.

    Returns:
        ``FoldsEvent``, ``HeartbeatEvent`` or ``ClosedEvent``; subjects have the right form, no fold ends before it begins.

    Raises:
        UndecodableRecord: It is none of these.
    """
    try:
        record = _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UndecodableRecord(str(error)) from error
    if isinstance(record, FoldsEvent):
        for fold in record.folds:
            if not is_subject(fold.subject):  # it is written into JSON as it is
                raise UndecodableRecord(f"{fold.subject!r} is no subject")
            if fold.first_ms > fold.last_ms:
                raise UndecodableRecord(f"a fold of {fold.subject} ends before it begins")
    return record
