"""Prove, source by source, that no record is missing and none is doubled. Pure.

In ``decisions`` the events of a source are numbered ``seq`` from 1 over all partitions; in ``denials`` and ``outcomes`` its
records are numbered ``n`` from 1 in each partition. A *mark* is a heartbeat or the closing event; it carries the source's last
number.

What a producer promises:

1. In each partition a mark with number h stands after every event up to h that the source sent to *that* partition, and after
   the gap events there that announce drops up to h. (It flushes before it writes marks, or sends all in order.)
2. A mark's number is at least that of every event which stands before the mark that precedes it in the partition.
3. A mark of number 0 stands before every event of its source in its partition. (A source need not begin with one. Where it does
   not, its first two seconds count as not provable if retention had begun to delete when it started.)

The rule that follows, and that never reports a false gap, neither on a live system nor at the edge of retention:

- **Ceiling.** The cut ends each partition at another instant. So a number is judged only up to the least of the partitions'
  highest marks of the source: by promise 1 whatever is numbered up to there is in the cut, whichever partition it went to. A
  partition without a mark of the source makes the ceiling 0. Above the ceiling is the *tail*: at most a linger and the pause
  between two heartbeats of a source that is alive or was killed; nothing of one that closed.
- **Floor.** Where retention has deleted the beginning of a partition, what it deleted of the source is numbered at most as the
  second mark that is left there (promise 2), and there was nothing if the first mark left is 0 (promise 3). Numbers up to the
  highest of these floors are not judged.
- Between floor and ceiling, a number that was neither read nor announced as dropped is *missing*.
- A number that was read twice is *doubled*, wherever it lies. One above that with which a source closed is *beyond its end*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Literal, TypeAlias

import msgspec

from topics.codec import Undecodable, decode
from topics.intervals import Range, Tally, clip, count, join, subtract

AuditedTopic = Literal["decisions", "denials", "outcomes"]
State = Literal["closed", "open", "unproven"]

LONGEST_LIST = 100
"""Ranges, and undecodable records, that a report lists; the rest is counted."""

Number = Annotated[int, msgspec.Meta(ge=1)]


class _Numbered(msgspec.Struct, tag_field="type", kw_only=True, gc=False):
    source: str
    v: Literal[1] = 1


class _Decision(_Numbered, tag="decision", kw_only=True, gc=False):
    seq: Number


class _Folds(_Numbered, tag="folds", kw_only=True, gc=False):
    seq: Number = msgspec.field(name="n")


class _Outcome(_Numbered, tag="outcome", kw_only=True, gc=False):
    seq: Number = msgspec.field(name="n")


class _Load(_Numbered, tag="load", kw_only=True, gc=False):
    seq: Number = msgspec.field(name="n")


class _Gap(_Numbered, tag="gap", kw_only=True):
    ranges: list[tuple[Number, Number]]


class _Mark(_Numbered, kw_only=True):
    seq: Annotated[int, msgspec.Meta(ge=0)]
    at_ms: int


class _Heartbeat(_Mark, tag="heartbeat"):
    pass


class _Closed(_Mark, tag="closed"):
    pass


_Event: TypeAlias = _Decision | _Folds | _Outcome | _Load | _Gap | _Heartbeat | _Closed
_DECODERS: dict[str, msgspec.json.Decoder[_Event]] = {
    "decisions": msgspec.json.Decoder(_Decision | _Gap | _Heartbeat | _Closed),
    "denials": msgspec.json.Decoder(_Folds | _Heartbeat | _Closed),
    "outcomes": msgspec.json.Decoder(_Outcome | _Load | _Heartbeat | _Closed),
}


@dataclass(frozen=True, slots=True)
class Found:
    """Ranges of numbers: the first hundred, and how many numbers there are in all."""

    ranges: tuple[Range, ...] = ()
    numbers: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """What is proven of one source; where numbers run within a partition, of one source in one partition.

    Attributes:
        source: Who wrote.
        partition: None where numbers run over all partitions.
        state: ``closed``: it drained, and nothing may follow. ``open``: proven up to ``last``, its tail unknown. ``unproven``:
            nothing can be judged, because a partition holds no mark of it, or retention took too much.
        first: Lowest number that can be judged.
        last: Highest number that can be judged; below ``first`` when none can.
        read: Different numbers that were read.
        missing: Not read and not announced, between ``first`` and ``last``.
        doubled: Read more than once.
        beyond: Read, although the source closed with a lower number.
        announced: Dropped by the source, and said so; not what arrived all the same.
        tail: Numbers that were read above ``last`` of a source that is not closed.
        last_mark_ms: When the source wrote its last mark; None when none was read.
        silent_partitions: Partitions without a mark of it.
    """

    source: str
    partition: int | None
    state: State
    first: int
    last: int
    read: int
    missing: Found
    doubled: Found
    beyond: Found
    announced: Found
    tail: int
    last_mark_ms: int | None
    silent_partitions: tuple[int, ...]

    @property
    def is_faulty(self) -> bool:
        """Whether something is missing, doubled, or beyond the end."""
        return bool(self.missing.numbers or self.doubled.numbers or self.beyond.numbers)


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no event of its topic."""

    partition: int
    offset: int
    error: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The outcome of one audit.

    Attributes:
        topic: What was audited.
        records: Records that were read.
        accounts: One per source, or per source and partition; faulty ones first.
        undecodable: How many records are no events.
        bad_records: The first hundred of them.
        edges: Log start offset of the partitions whose beginning retention has deleted.
    """

    topic: str
    records: int
    accounts: tuple[Account, ...]
    undecodable: int
    bad_records: tuple[BadRecord, ...]
    edges: Mapping[int, int]

    @property
    def is_faulty(self) -> bool:
        """Whether something is missing, doubled, beyond an end, or undecodable."""
        return self.undecodable > 0 or any(account.is_faulty for account in self.accounts)

    @property
    def has_announced(self) -> bool:
        """Whether a source dropped events and said so."""
        return any(account.announced.numbers for account in self.accounts)


@dataclass(slots=True)
class _Marks:
    """The marks of one source in one partition, in the order in which they were read."""

    first: int | None = None
    second: int | None = None
    highest: int = 0
    closed_at: int | None = None

    def add(self, number: int, *, is_closed: bool) -> None:
        if self.first is None:
            self.first = number
        elif self.second is None:
            self.second = number
        self.highest = max(self.highest, number)
        if is_closed:
            self.closed_at = number

    def floor(self) -> int | None:
        """Highest number that retention may have taken from this partition; None when there is no telling."""
        return 0 if self.first == 0 else self.second


@dataclass(slots=True)
class _Stream:
    """One run of numbers."""

    tally: Tally = field(default_factory=Tally)
    marks: dict[int, _Marks] = field(default_factory=dict)
    announced: list[Range] = field(default_factory=list)
    last_mark_ms: int | None = None


class Audit:
    """Takes the records of one cut, from each partition's beginning and in its order, and tells what they prove.

    Memory: a bit per number while numbers are incomplete, next to nothing for complete runs, and one entry per source.
    """

    def __init__(self, topic: AuditedTopic, edges: Mapping[int, int]) -> None:
        """Begin an audit.

        Args:
            topic: Which rules hold.
            edges: First offset that retention has left, for every partition of the topic, also those without records.
        """
        self._topic: AuditedTopic = topic
        self._edges = dict(edges)
        self._decode = _DECODERS[topic].decode
        self._streams: dict[tuple[str, int | None], _Stream] = {}
        self._records = 0
        self._undecodable = 0
        self._bad_records: list[BadRecord] = []
        self._runs_over_partitions = topic == "decisions"

    def read(self, partition: int, offset: int, value: bytes | None) -> None:
        """Take one record. Never raises on its content: what is no event is counted and listed.

        Args:
            partition: Where it stands.
            offset: Its offset there.
            value: Its value, undecoded.
        """
        self._records += 1
        try:
            event = self._decode(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            try:
                # The models forgive some spellings that the fast structs do not.
                event = self._decode(decode(self._topic, value).model_dump_json())
            except Undecodable as error:
                self._reject(partition, offset, str(error))
                return
        key = (event.source, None if self._runs_over_partitions else partition)
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream()
        if isinstance(event, _Decision | _Folds | _Outcome | _Load):
            stream.tally.add(event.seq)
        elif isinstance(event, _Gap):
            if any(first > last for first, last in event.ranges):
                self._reject(partition, offset, "a dropped range ends before it begins")
            else:
                stream.announced.extend(event.ranges)
        else:
            stream.marks.setdefault(partition, _Marks()).add(event.seq, is_closed=isinstance(event, _Closed))
            stream.last_mark_ms = max(stream.last_mark_ms or 0, event.at_ms)

    def conclude(self) -> AuditReport:
        """Tell what the records prove. May be called once all of the cut was read."""
        accounts = [self._account(source, partition, stream) for (source, partition), stream in self._streams.items()]
        return AuditReport(
            topic=self._topic,
            records=self._records,
            accounts=tuple(sorted(accounts, key=lambda each: (not each.is_faulty, each.source, each.partition or 0))),
            undecodable=self._undecodable,
            bad_records=tuple(self._bad_records),
            edges={partition: edge for partition, edge in self._edges.items() if edge > 0},
        )

    def _reject(self, partition: int, offset: int, error: str) -> None:
        self._undecodable += 1
        if len(self._bad_records) < LONGEST_LIST:
            self._bad_records.append(BadRecord(partition, offset, error))

    def _account(self, source: str, partition: int | None, stream: _Stream) -> Account:
        partitions = tuple(self._edges) if partition is None else (partition,)
        silent = tuple(place for place in partitions if place not in stream.marks)
        marks = {place: stream.marks[place] for place in partitions if place in stream.marks}
        ceiling = 0 if silent else min(mark.highest for mark in marks.values())
        floors = [mark.floor() for place, mark in marks.items() if self._edges[place] > 0]
        floor = max((ceiling if each is None else each for each in floors), default=0)
        is_closed = not silent and all(mark.closed_at is not None for mark in marks.values())
        # What was given up as dropped may have arrived all the same.
        announced = list(subtract(join(sorted(stream.announced)), stream.tally.list_ranges()))
        judged = [(floor + 1, ceiling)] if floor < ceiling else []
        missing = subtract(subtract(judged, announced), stream.tally.list_ranges())
        above = _list(clip(stream.tally.list_ranges(), ceiling + 1, _END))
        return Account(
            source=source,
            partition=partition,
            # A source that closed without having said anything is proven to have said nothing.
            state="closed" if is_closed else "open" if judged or (not silent and ceiling == 0) else "unproven",
            first=floor + 1,
            last=ceiling,
            read=stream.tally.seen,
            missing=_list(missing),
            doubled=_list(stream.tally.list_doubled()),
            beyond=above if is_closed else Found(),
            announced=_list(announced),
            tail=0 if is_closed else above.numbers,
            last_mark_ms=stream.last_mark_ms,
            silent_partitions=silent,
        )


_END = 1 << 64


def _list(ranges: Iterable[Range]) -> Found:
    rest = iter(ranges)
    listed = tuple(islice(rest, LONGEST_LIST))
    return Found(listed, count(listed) + count(rest))
