"""Show the records of a topic as they come."""

from __future__ import annotations

import json
import select
from base64 import b64encode
from typing import Literal, TextIO

from rich.console import Console
from rich.text import Text

from topics.codec import Undecodable, decode
from topics.connection import Tell
from topics.events import Event
from topics.filters import Filters
from topics.lines import Line, say, say_tombstone, say_undecodable
from topics.log import StoredRecord, open_log

Form = Literal["lines", "json"]


class Output:
    """Writes events to a stream: readable lines, coloured on a terminal, or one JSON object per line."""

    def __init__(self, stream: TextIO, form: Form) -> None:
        """Write to a stream.

        Args:
            stream: Where to; :class:`BrokenPipeError` of it passes through.
            form: What is written.
        """
        self._stream = stream
        self._form = form
        self._console = Console(file=stream, highlight=False)

    def show_event(self, event: Event) -> None:
        """Write one event, in as many lines as it has folds."""
        if self._form == "json":
            self._stream.write(f"{event.model_dump_json()}\n")
        else:
            for line in say(event):
                self.show_line(line)

    def show_undecodable(self, topic: str, record: StoredRecord, error: str) -> None:
        """Write that a record is no event."""
        if self._form == "json":
            value = b64encode(record.value or b"").decode()
            place = {"topic": topic, "partition": record.partition, "offset": record.offset}
            self._stream.write(f"{json.dumps({'type': 'undecodable', **place, 'error': error, 'value_base64': value})}\n")
        else:
            self.show_line(say_undecodable(topic, record.partition, record.offset, error, record.value))

    def show_tombstone(self, key: bytes | None) -> None:
        """Write that a key was forgotten."""
        if self._form == "json":
            self._stream.write(f"{json.dumps({'type': 'tombstone', 'key': (key or b'').decode(errors='replace')})}\n")
        else:
            self.show_line(say_tombstone(key))

    def show_line(self, line: Line) -> None:
        """Write one line."""
        if self._console.is_terminal:
            self._console.print(Text.assemble(*line), soft_wrap=True)
        else:
            text = "".join(part for part, _ in line)
            # A lone surrogate of a hostile id cannot be written in any encoding.
            self._stream.write(f"{text.encode(errors='backslashreplace').decode()}\n")

    def flush(self) -> None:
        """Hand over what was written."""
        self._stream.flush()

    def is_closed(self) -> bool:
        """Tell whether the reader of a pipe has gone: with nothing to write, no write would show it."""
        if not hasattr(select, "poll"):
            return False
        try:
            descriptor = self._stream.fileno()
        except OSError:
            return False
        poller = select.poll()
        poller.register(descriptor, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))


async def tail(
    bootstrap: str,
    topic: str,
    filters: Filters,
    output: Output,
    *,
    since_ms: int | None,
    follows: bool,
    limit: int | None = None,
    name: str | None = None,
    wait_s: float = 0.0,
    tell: Tell,
) -> int:
    """Show what is there, in the order of its arrival, and then what comes, until nobody reads any more.

    Args:
        bootstrap: ``host:port[,host:port]``.
        topic: One of the six: decides how records are read.
        filters: Checked for this topic already.
        output: Where to.
        since_ms: Start at what arrived at this time or later; None for the beginning.
        follows: Wait for more at the end.
        limit: Stop after that many records were shown.
        name: Name of the topic on the broker, when it is another.
        wait_s: How long to wait for a broker that is not up.
        tell: Is told what is waited for.

    Returns:
        How many records were shown.

    Raises:
        KafkaUnavailable: No broker answered.
        TopicMissing: There is no such topic.
        HistoryLost: Retention was faster than this reader.
    """
    shown = 0
    async with open_log(bootstrap, name or topic, wait_s=wait_s, tell=tell) as log:
        cut = await log.cut(since_ms)
        async for record in log.read_in_time(cut):
            shown += _show(topic, record, filters, output)
            if shown == limit:
                break
        output.flush()
        if shown == limit:
            return shown
        wanted = " ".join(f"--{each} {value}" for each, value in filters.given.items())
        if not shown:
            what = (
                "holds nothing"
                if cut.offsets == 0
                else f"holds nothing that matches {wanted}"
                if wanted
                else "holds nothing to show"
            )
            since = " in that time" if since_ms is not None else ""
            tell(f"{topic} {what}{since}{'; waiting for more, Ctrl-C ends' if follows else ''}")
        if not follows:
            return shown
        async for batch in log.follow(cut):
            for record in batch:
                shown += _show(topic, record, filters, output)
                if shown == limit:
                    break
            output.flush()
            if shown == limit or output.is_closed():
                break
    return shown


def _show(topic: str, record: StoredRecord, filters: Filters, output: Output) -> int:
    if record.value is None and topic == "subjects":
        if filters.given:
            return 0
        output.show_tombstone(record.key)
        return 1
    try:
        event = decode(topic, record.value)
    except Undecodable as error:
        output.show_undecodable(topic, record, str(error))
        return 1
    chosen = filters.select(event)
    if chosen is None:
        return 0
    output.show_event(chosen)
    return 1
