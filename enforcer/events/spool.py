"""A bounded queue of encoded events on disk, for as long as Kafka is away.

A spool is a folder of segments, each written whole and renamed into place, read and deleted in their order. Every record
carries a CRC, so what a broken disk returns is never sent as an event. When the spool is full the allows of the oldest segments
go first, then the oldest segments. Which events were lost is always known: their numbers stand in the segment's head or name.

A process that ends while Kafka is away leaves its spool behind; the next one with the same name and worker number adopts it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

LARGEST_SEGMENT_RECORDS = 5000

_RECORD = struct.Struct("<IIQB")
"""CRC of all that follows, bytes of the value, seq, whether it is an allow; then one byte-counted key and the value."""
_NAME = re.compile(r"(\d{10})-(\d+)-(\d+)\.segment")
_LOCK = "lock"


class Spooled(msgspec.Struct, frozen=True, gc=False):
    """One event, encoded."""

    seq: int
    """0 for an announcement, which has no number of its own."""
    key: bytes
    """At most 1,023 bytes."""
    value: bytes
    is_allow: bool


class SpoolCorrupt(Exception):  # noqa: N818 it says what is the case
    """A segment cannot be read whole. Send what could be read, announce the rest, and discard it: it will not heal."""

    def __init__(self, readable: list[Spooled], lost: list[int]) -> None:
        super().__init__(f"{len(lost)} events cannot be read back")
        self.readable = readable
        self.lost = lost


@dataclass(slots=True)
class Spool:
    """One process's spool. Blocking: call from a thread where it matters. Not safe for two threads at once.

    ``capacity_bytes`` bounds what stands on disk, up to one segment more.
    """

    folder: Path
    capacity_bytes: int
    _segments: list[Path] = field(default_factory=list)
    _stripped: set[Path] = field(default_factory=set)
    _bytes: int = 0
    _next: int = 1
    _lock: int = -1

    def open(self) -> None:
        """Make or take the folder, and hold it against other processes.

        Raises:
            OSError: It cannot be made, written, or is held by a live process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._segments = sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        self._bytes = sum(path.stat().st_size for path in self._segments)
        self._next = 1 + max((_read_name(path)[0] for path in self._segments), default=0)

    def close(self) -> None:
        """Let go of the folder, and remove it when nothing is left in it."""
        if self._lock < 0:
            return
        os.close(self._lock)
        self._lock = -1
        if not self._segments:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._segments

    @property
    def size_bytes(self) -> int:
        """What stands on disk."""
        return self._bytes

    def append(self, records: Sequence[Spooled]) -> list[int]:
        """Write one segment; returns the numbers of events that had to go to make room.

        Raises:
            OSError: The disk is full or gone. Nothing of ``records`` was kept: announce them.
        """
        seqs = [record.seq for record in records if record.seq]
        name = f"{self._next:010d}-{min(seqs, default=0)}-{max(seqs, default=0)}.segment"
        path, temporary = self.folder / name, self.folder / "segment.tmp"
        content = b"".join([_pack(record) for record in records])
        try:
            temporary.write_bytes(_pack_head(seqs) + content)
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._next += 1
        self._segments.append(path)
        self._bytes += path.stat().st_size
        return self._make_room()

    @property
    def oldest(self) -> Path:
        """The segment whose turn it is; there is one while the spool is not empty."""
        return self._segments[0]

    def read(self, segment: Path) -> list[Spooled]:
        """Read one segment; it stays until it is discarded.

        Raises:
            SpoolCorrupt: Part of it, or all, is not what was written.
        """
        return _read(segment)

    def discard(self, segment: Path) -> None:
        """Delete a segment: Kafka has it. One that had to make room meanwhile is gone already."""
        if segment in self._segments:
            self._segments.remove(segment)
            self._bytes -= segment.stat().st_size
            self._stripped.discard(segment)
            segment.unlink()

    def _make_room(self) -> list[int]:
        lost: list[int] = []
        for path in self._segments[:-1]:
            if self._bytes <= self.capacity_bytes:
                return lost
            if path not in self._stripped:
                lost += self._strip(path)
        while self._bytes > self.capacity_bytes and len(self._segments) > 1:
            lost += _read_head(self._segments[0].read_bytes(), self._segments[0])[0]
            self.discard(self._segments[0])
        return lost

    def _strip(self, path: Path) -> list[int]:
        """Take the allows out of a segment."""
        try:
            records = _read(path)
        except SpoolCorrupt:
            return []  # found and announced when its turn comes
        kept = [record for record in records if not record.is_allow]
        before = path.stat().st_size
        temporary = self.folder / "segment.tmp"
        temporary.write_bytes(_pack_head([r.seq for r in kept if r.seq]) + b"".join([_pack(r) for r in kept]))
        temporary.rename(path)
        self._bytes += path.stat().st_size - before
        self._stripped.add(path)
        return [record.seq for record in records if record.is_allow]


def find_abandoned(parent: Path, capacity_bytes: int) -> Iterator[Spool]:
    """Open, one after the other, the spools below ``parent`` that no live process holds."""
    if not parent.is_dir():
        return
    for folder in sorted(path for path in parent.iterdir() if path.is_dir()):
        spool = Spool(folder, capacity_bytes)
        try:
            spool.open()
        except OSError:
            continue  # its process lives
        yield spool


def _pack(record: Spooled) -> bytes:
    body = struct.pack("<H", len(record.key)) + record.key + record.value
    rest = _RECORD.pack(0, len(record.value), record.seq, record.is_allow)[4:] + body
    return struct.pack("<I", zlib.crc32(rest)) + rest


def _pack_head(seqs: Sequence[int]) -> bytes:
    content = msgspec.msgpack.encode(seqs)
    return struct.pack("<II", zlib.crc32(content), len(content)) + content


def _read_name(path: Path) -> tuple[int, int, int]:
    found = _NAME.fullmatch(path.name)
    assert found is not None  # noqa: S101 only such files are listed
    return int(found[1]), int(found[2]), int(found[3])


def _read_head(content: bytes, path: Path) -> tuple[list[int], int]:
    """The numbers that the segment holds, and where its records begin; without a sound head the name has the range."""
    try:
        crc, size = struct.unpack_from("<II", content)
        head = content[8 : 8 + size]
        if zlib.crc32(head) == crc:
            return msgspec.msgpack.decode(head, type=list[int]), 8 + size
    except (struct.error, msgspec.DecodeError):
        pass
    _, first, last = _read_name(path)
    return list(range(first, last + 1)) if last else [], -1


def _read(path: Path) -> list[Spooled]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpoolCorrupt([], _read_head(b"", path)[0]) from error
    seqs, position = _read_head(content, path)
    records: list[Spooled] = []
    while 0 <= position < len(content):
        try:
            crc, value_bytes, seq, is_allow = _RECORD.unpack_from(content, position)
            start = position + _RECORD.size
            (key_bytes,) = struct.unpack_from("<H", content, start)
        except struct.error:
            break
        end = start + 2 + key_bytes + value_bytes
        if zlib.crc32(content[position + 4 : end]) != crc or end > len(content):
            break
        key = content[start + 2 : start + 2 + key_bytes]
        records.append(Spooled(seq, key, content[end - value_bytes : end], bool(is_allow)))
        position = end
    read = {record.seq for record in records}
    lost = [seq for seq in seqs if seq not in read]
    if lost or position != len(content):
        raise SpoolCorrupt(records, lost)
    return records
