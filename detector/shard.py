"""What the detector remembers of one partition of ``denials``: windows per subject, and what they include. Pure.

Every row names the last record (by offset) that it includes, and so does the progress of the whole partition, so a record
that is read again changes nothing, even if a crash cut a flush in two. A record that its writer wrote twice is told by its
number. A record is first weighed, which changes nothing; only when its effects are done is it accepted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from detector.rules import Rules
from detector.verdict import Origin
from detector.watches import Watch, compile_watches
from detector.windows import Crossing, Window, advance, count_denials
from topics.wire import ClosedEvent, DenialRecord, Fold, FoldsEvent, HeartbeatEvent

MOST_SUBJECTS = 50_000
"""Subjects that one partition remembers. Above, the tenth with the fewest denials is forgotten."""

MOST_SOURCES = 1_000
FORGET_SOURCE_MS = 86_400_000
"""A source that was silent for a day is forgotten: what its successor still finds of it comes within minutes."""

MOST_AHEAD_MS = 5_000
"""An event may be dated so far ahead of the broker's clock. One that is further ahead comes from a wrong clock: it is counted
as of the broker's time, or it would make all that follow it late."""

SWEPT_PER_DRAIN = 1_000


_UNUSED = Window()


class Row(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of one subject."""

    offset: int
    """Last record that the windows include."""
    touched_ms: int
    """When the broker took that record. Denials that come late from a spool are new, however old their event times are."""
    windows: dict[str, Window]
    """By the key of the watch."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far one source was read."""

    n: int
    taken_ms: int
    """When the broker took that record."""


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How far the partition was read."""

    offset: int
    marks: dict[str, Mark]


@dataclass(frozen=True, slots=True)
class Weighing:
    """What one record would change.

    Attributes:
        offset: Of the record.
        kind: ``folds``, ``heartbeat``, ``closed``, ``reread`` or ``doubled``.
        rows: Changed rows.
        mark: Source and its new mark; a mark of None is dropped.
        taken_ms: When the broker took it, or 0.
        crossings: What has to have effect before the record may be accepted.
        origin: Where those come from.
        denials: Counted, by rule.
        late: Dropped for being late, by rule.
        ahead: Denials that were dated ahead of the broker's clock, and counted as of its time.
        missing: Records of the source that never came.
    """

    offset: int
    kind: str
    rows: Mapping[str, Row] = field(default_factory=dict)
    mark: tuple[str, Mark | None] | None = None
    taken_ms: int = 0
    crossings: tuple[Crossing, ...] = ()
    origin: Origin | None = None
    denials: Mapping[str, int] = field(default_factory=dict)
    late: Mapping[str, int] = field(default_factory=dict)
    ahead: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be written down, in this order: rows (None deletes), then progress."""

    rows: Mapping[str, bytes | None]
    progress: bytes | None
    offset: int
    """Last record that is included; -1 for none. Commit one more, after all is written."""


class Shard:
    """The memory of one partition.

    Bounded by :data:`MOST_SUBJECTS` rows of about 100 bytes; subjects without denials for two windows are forgotten.
    """

    def __init__(
        self, partition: int, rules: Rules, rows: dict[str, bytes], progress: bytes | None, *, most: int = MOST_SUBJECTS
    ) -> None:
        """Take up what was written down.

        Args:
            partition: Its number.
            rules: What is counted.
            rows: As :meth:`drain` gave them; the shard keeps the dictionary.
            progress: As :meth:`drain` gave it; None at the very start.
            most: Subjects to remember at most, at least 10.
        """
        self._partition = partition
        self.rules = rules
        """What is counted now."""
        self._watches = {watch.key: watch for watch in compile_watches(rules)}
        self._rows = rows
        self._remembered = len(rows)
        self._fresh: dict[str, Row | None] = {}
        past = msgspec.msgpack.decode(progress, type=Progress) if progress else Progress(-1, {})
        self._marks = dict(past.marks)
        self._has_new_marks = False
        self._clock_ms = 0
        self._most = most
        self._sweep: Iterator[str] = iter(())
        self._find_watches = lru_cache(maxsize=4096)(self._match_watches)
        self.offset = past.offset
        """Last record that is included, -1 for none."""
        self.evicted = 0
        """Subjects forgotten for lack of room."""

    def __len__(self) -> int:
        return self._remembered

    def weigh(self, offset: int, record: DenialRecord, *, taken_ms: int) -> Weighing:
        """Say what a record would change. Changes nothing itself.

        Args:
            offset: Of the record; records that are included already are told by it.
            record: ``FoldsEvent``, ``HeartbeatEvent`` or ``ClosedEvent``.
            taken_ms: When the broker took it. It tells what is idle, and nothing else.
        """
        if offset <= self.offset:
            return Weighing(offset, "reread")
        if isinstance(record, FoldsEvent):
            return self._weigh_folds(offset, record, taken_ms)
        if isinstance(record, ClosedEvent):
            # What a source that drained in order has written is all there: nobody will write it again.
            return Weighing(offset, "closed", mark=(record.source, None), taken_ms=taken_ms, missing=self._miss(record))
        if isinstance(record, HeartbeatEvent):
            missing = self._miss(record)
            mark = (record.source, Mark(record.seq, taken_ms)) if missing else None
            return Weighing(offset, "heartbeat", mark=mark, taken_ms=taken_ms, missing=missing)
        raise TypeError(f"{type(record).__name__} is no record of topic denials")

    def accept(self, weighing: Weighing) -> None:
        """Include a record, whose effects are done. Call in the order of offsets."""
        if weighing.offset <= self.offset:
            return
        self.offset = weighing.offset
        self._clock_ms = max(self._clock_ms, weighing.taken_ms)
        for subject, row in weighing.rows.items():
            if self._fresh.get(subject) is None and (subject in self._fresh or subject not in self._rows):
                self._remembered += 1
            self._fresh[subject] = row
        if weighing.mark:
            source, mark = weighing.mark
            self._has_new_marks = True
            if mark:
                self._marks[source] = mark
            else:
                self._marks.pop(source, None)
        if self._remembered > self._most:
            self._evict()

    def swap(self, rules: Rules) -> None:
        """Count by other rules from the next record on.

        Windows of a rule that counts the same go on, whatever its thresholds; all others start empty. Call between accepting
        one record and weighing the next.
        """
        self.rules = rules
        self._watches = {watch.key: watch for watch in compile_watches(rules)}
        self._find_watches.cache_clear()

    def list_subjects(self) -> set[str]:
        """Give the subjects that are remembered."""
        return {*self._rows, *(subject for subject, row in self._fresh.items() if row)}

    def skip(self, offset: int) -> None:
        """Go past a record that cannot be read."""
        self.accept(Weighing(offset, "skipped"))

    def forget(self) -> None:
        """Drop everything: the topic was made anew, and offsets say nothing about what was read before."""
        self._fresh = dict.fromkeys([*self._rows, *self._fresh])
        self._remembered = 0
        self._marks = {}
        self._has_new_marks = True
        self.offset = -1

    def drain(self) -> Changes:
        """Give what changed since the last call, and forget what is idle. Write it down, or end the process: it comes once."""
        self._sweep_idle()
        rows: dict[str, bytes | None] = {}
        for key, row in self._fresh.items():
            if row is None:
                if self._rows.pop(key, None) is not None:
                    rows[key] = None
            else:
                self._rows[key] = rows[key] = msgspec.msgpack.encode(row)
        self._fresh = {}
        progress = None
        if self._has_new_marks or rows:
            self._forget_sources()
            progress = msgspec.msgpack.encode(Progress(self.offset, self._marks))
            self._has_new_marks = False
        return Changes(rows, progress, self.offset)

    def _weigh_folds(self, offset: int, record: FoldsEvent, taken_ms: int) -> Weighing:
        mark = self._marks.get(record.source)
        if mark and record.n <= mark.n:
            return Weighing(offset, "doubled", taken_ms=taken_ms)
        rows: dict[str, Row] = {}
        crossings = []
        denials: dict[str, int] = {}
        late: dict[str, int] = {}
        ahead = 0
        latest_ms = taken_ms + MOST_AHEAD_MS if taken_ms else sys.maxsize
        for index, fold in enumerate(record.folds):
            watches = self._find_watches(
                fold.subject.partition("=")[0], fold.action, fold.policy, fold.limit, tuple(fold.attributes.items())
            )
            if not watches:
                continue
            row = rows.get(fold.subject) or self._find_row(fold.subject)
            # A row that was flushed before a crash includes the record already, although the partition's progress does not.
            if row.offset >= offset and fold.subject not in rows:
                continue
            if fold.last_ms > latest_ms:
                ahead += fold.count
                fold = msgspec.structs.replace(  # noqa: PLW2901 - nobody may see the other one
                    fold, first_ms=max(0, taken_ms - (fold.last_ms - fold.first_ms)), last_ms=taken_ms
                )
            windows = dict(row.windows)
            if not windows.keys() <= self._watches.keys():  # the rules have changed
                windows = {key: window for key, window in windows.items() if key in self._watches}
            counted = ""
            for watch in watches:
                step = advance(windows.get(watch.key) or _UNUSED, fold, watch)
                windows[watch.key] = step.window
                name = watch.rule.name
                if name != counted:
                    tally = late if step.is_late else denials
                    tally[name] = tally.get(name, 0) + fold.count
                counted = name
                if step.crossing:
                    crossings.append(msgspec.structs.replace(step.crossing, fold=index))
            rows[fold.subject] = Row(offset, taken_ms, windows)
        return Weighing(
            offset,
            "folds",
            rows=rows,
            mark=(record.source, Mark(record.n, taken_ms)),
            taken_ms=taken_ms,
            crossings=tuple(crossings),
            origin=Origin(self._partition, offset, record.source, record.n),
            denials=denials,
            late=late,
            ahead=ahead,
            missing=record.n - mark.n - 1 if mark else 0,
        )

    def _miss(self, record: HeartbeatEvent | ClosedEvent) -> int:
        mark = self._marks.get(record.source)
        return max(0, record.seq - mark.n) if mark else 0

    def _match_watches(
        self, kind: str, action: str, policy: str, limit: str, attributes: tuple[tuple[str, str], ...]
    ) -> tuple[Watch, ...]:
        fold = Fold(f"{kind}=", action, policy, limit, 1, 0, 0, attributes=dict(attributes))
        return tuple(watch for watch in self._watches.values() if watch.covers(fold))

    def _find_row(self, subject: str) -> Row:
        if subject in self._fresh:
            return self._fresh[subject] or Row(-1, 0, {})
        raw = self._rows.get(subject)
        return msgspec.msgpack.decode(raw, type=Row) if raw else Row(-1, 0, {})

    def _is_idle(self, row: Row) -> bool:
        # Twice the window: a fold that is a little late must still find the ring that tells so.
        longest_ms = max((self._watches[key].window_ms for key in row.windows if key in self._watches), default=0)
        return row.touched_ms + 2 * longest_ms <= self._clock_ms

    def _sweep_idle(self) -> None:
        for _ in range(SWEPT_PER_DRAIN):
            key = next(self._sweep, None)
            if key is None:
                self._sweep = iter([*self._rows])
                return
            if key not in self._fresh and key in self._rows and self._is_idle(self._find_row(key)):
                self._fresh[key] = None
                self._remembered -= 1

    def _evict(self) -> None:
        held = {key: self._find_row(key) for key in {*self._rows, *self._fresh} if self._fresh.get(key, True) is not None}
        fewest = sorted(held, key=lambda key: (sum(map(count_denials, held[key].windows.values())), key))
        for key in fewest[: max(1, self._most // 10)]:
            self._fresh[key] = None
            self._remembered -= 1
            self.evicted += 1

    def _forget_sources(self) -> None:
        recent = {source: mark for source, mark in self._marks.items() if mark.taken_ms + FORGET_SOURCE_MS > self._clock_ms}
        newest = sorted(recent, key=lambda source: recent[source].taken_ms)[-MOST_SOURCES:]
        self._marks = {source: recent[source] for source in newest}
