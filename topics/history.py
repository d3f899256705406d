"""Read the decisions of some time back, out of the topic or a file, in the order of their time; with progress on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from topics.log import open_log
from topics.recorded import Gap, Order, Recorded, decode_record

LATEST_ARRIVAL_MS = 600_000
"""How long after its time a decision may have arrived in Kafka and still be looked for: spools are sent late."""
BATCH = 20_000
"""Records between two looks at which are in their place."""


class DecisionHistory:
    """Feeds decisions of some time to whoever looks back, each once. Read one topic or one file with it."""

    def __init__(self, feed: Callable[[Recorded], None], first_ms: int, last_ms: int, *, title: str) -> None:
        """Feed decisions from ``first_ms`` on, up to and with ``last_ms``; ``title`` stands before the progress."""
        self._feed_one = feed
        self._first_ms, self._last_ms = first_ms, last_ms
        self._title = title
        self._order = Order()
        self.missing = 0
        """Decisions that enforcers announced as dropped."""
        self.undecodable = 0
        """Records that are no events."""

    @property
    def doubled(self) -> int:
        """Decisions that were read before, and were fed once."""
        return self._order.doubled

    async def read_topic(self, kafka: str, topic: str) -> None:
        """Read what a topic holds of that time.

        Raises:
            KafkaUnavailable: No broker answered.
            TopicMissing: There is no such topic.
            HistoryLost: Retention was faster.
        """
        async with open_log(kafka, topic) as log:
            cut = await log.cut(self._first_ms)  # a decision arrives after it was made
            with show_progress(self._title, cut.offsets) as advance:
                count = 0
                async for record in log.read_in_time(cut):
                    self._add(record.value or b"")
                    count += 1
                    if count % BATCH == 0:
                        self._feed()
                        advance(BATCH)
                    if record.timestamp > self._last_ms + LATEST_ARRIVAL_MS:
                        break
        self._feed(is_last=True)

    def read_file(self, file: Path) -> None:
        """Read JSON lines, as ``python -m topics tail decisions --json`` writes them.

        Raises:
            OSError: The file cannot be read.
        """
        with file.open("rb") as lines, show_progress(self._title, file.stat().st_size) as advance:
            size = 0
            for count, line in enumerate(lines, 1):
                self._add(line)
                size += len(line)
                if count % BATCH == 0:
                    self._feed()
                    advance(size)
                    size = 0
        self._feed(is_last=True)

    def _add(self, value: bytes) -> None:
        try:
            record = decode_record(value)
        except msgspec.DecodeError:
            self.undecodable += 1
            return
        if isinstance(record, Recorded):
            if self._first_ms <= record.decided_at_ms <= self._last_ms:
                self._order.add(record)
        elif isinstance(record, Gap):
            self.missing += sum(last - first + 1 for first, last in record.ranges)

    def _feed(self, *, is_last: bool = False) -> None:
        for record in self._order.take(is_last=is_last):
            self._feed_one(record)


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far it is; gives what to call with each step."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield partial(progress.advance, task)
