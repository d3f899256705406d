"""``python -m detector backtest``: a candidate's rules over history."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import msgspec
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from config.declared import DeclaredPolicies
from config.document import DocumentError, read_document
from detector.backtest import MOST_DOUBTED, Backtest, Difference, Doubt, RuleReport
from detector.records import UndecodableRecord, decode_denials
from detector.refolding import Refolder
from detector.rules import Rules
from topics.codec import Undecodable, decode
from topics.errors import HistoryLost, KafkaUnavailable, TopicMissing
from topics.events import VerdictEvent
from topics.filters import parse_moment_ms
from topics.history import BATCH, LATEST_ARRIVAL_MS, DecisionHistory, show_progress
from topics.log import open_log
from topics.recorded import Recorded
from topics.specs import VERDICTS

BAD_INPUT, NOT_THERE = 2, 3
"""Exit codes: the command line, a document or the file is bad; Kafka or a topic is not there."""
_NO_END = 2**53


class Report(msgspec.Struct):
    """What a backtest found."""

    candidate: str
    """Version of the rules."""
    first_ms: int
    last_ms: int
    records: int = 0
    """Decisions, or records of topic ``denials``, that were read."""
    undecodable: int = 0
    missing: int = 0
    """Decisions that enforcers announced as dropped."""
    doubled: int = 0
    uncertain: int = 0
    """Refusals under a throttle factor by several limits; they count by all."""
    unknown: int = 0
    """Refusals by limits that --policies does not have; they count against nobody."""
    evicted: int = 0
    seconds: float = 0.0
    rules: dict[str, RuleReport] = msgspec.field(default_factory=dict)
    doubts: list[Doubt] = msgspec.field(default_factory=list)
    difference: Difference | None = None
    """None where the history is a file: nobody knows what happened beside it."""
    verdicts: list[VerdictEvent] = msgspec.field(default_factory=list)


def backtest(
    rules: Annotated[Path, typer.Option(help="The candidate: a rules document.")],
    since: Annotated[
        str | None,
        typer.Option("--from", help="24h, 90m: from then on; or a time, 2026-11-24T12:00Z. [default: 24h; of a file, all]"),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Up to then, in the same forms.")] = None,
    topic: Annotated[
        Literal["denials", "decisions"],
        typer.Option(help="denials: what the detector itself read; decisions: all, kept longer, folded again by --policies."),
    ] = "denials",
    kafka: Annotated[str, typer.Option(help="Kafka bootstrap servers.", envvar="KAFKA_BOOTSTRAP")] = "127.0.0.1:9092",
    file: Annotated[
        Path | None,
        typer.Option(help="Read decisions from this: lines as of `python -m topics tail decisions --json`."),
    ] = None,
    policies: Annotated[
        Path, typer.Option(help="Says whom the limits that refused are about; for decisions.", envvar="RATCHET_POLICIES")
    ] = Path("config/policies.yaml"),
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="For people, or one JSON object.")] = "text",
) -> None:
    """Show whom rules would have banned, and how that differs from what happened."""
    now_ms = time.time_ns() // 1_000_000
    try:
        first_ms = parse_moment_ms(since or "24h", now_ms) if since or file is None else 0
        last_ms = parse_moment_ms(until, now_ms) if until is not None else now_ms if file is None else _NO_END
        candidate = read_document(rules, Rules).model
        run = Run(candidate, first_ms, last_ms)
        if file is not None or topic == "decisions":
            run.refold(read_document(policies, DeclaredPolicies).model)
    except DocumentError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise typer.Exit(BAD_INPUT) from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if first_ms >= last_ms:
        raise typer.BadParameter(f"--from {since} is not before --to {until or 'now'}")
    try:
        report = run.read_file(file) if file is not None else asyncio.run(run.read_topics(kafka, topic))
    except (KafkaUnavailable, TopicMissing, HistoryLost) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(NOT_THERE) from error
    except OSError as error:
        sys.stderr.write(f"{file}: cannot be read: {error.strerror}\n")
        raise typer.Exit(BAD_INPUT) from error
    if output == "json":
        sys.stdout.write(msgspec.json.encode(report, enc_hook=_encode_event).decode() + "\n")
    else:
        print_report(report, sys.stdout)


class Run:
    """Reads history into a backtest."""

    def __init__(self, candidate: Rules, first_ms: int, last_ms: int) -> None:
        """Judge what happened from ``first_ms`` up to and with ``last_ms``; the longest window before it is read as well."""
        self.backtest = Backtest(candidate, first_ms=first_ms)
        longest_ms = max((rule.window_ms for rule in candidate.rules), default=0)
        self._last_ms = last_ms
        self._history = DecisionHistory(self._count, max(0, first_ms - longest_ms), last_ms, title="judging")
        self._start_ms = max(0, first_ms - longest_ms)
        self._report = Report(candidate.digest, first_ms, last_ms)
        self._refolder: Refolder | None = None
        self._offset = 0
        self._began_s = time.monotonic()

    def refold(self, policies: DeclaredPolicies) -> None:
        """Take decisions, and fold them by the limits of these policies."""
        self._refolder = Refolder(policies)

    def read_file(self, file: Path) -> Report:
        """Read decisions out of a file.

        Raises:
            OSError: It cannot be read.
        """
        self._history.read_file(file)
        return self._finish()

    async def read_topics(self, kafka: str, topic: str) -> Report:
        """Read decisions or denials out of their topic, and what happened out of ``verdicts``.

        Raises:
            KafkaUnavailable: No broker answered.
            TopicMissing: There is no such topic.
            HistoryLost: Retention was faster.
        """
        if topic == "decisions":
            await self._history.read_topic(kafka, topic)
        else:
            await self._read_denials(kafka, topic)
        report = self._finish()
        live = await read_verdicts(kafka, self._report.first_ms)
        report.difference = self.backtest.compare(verdict for verdict in live if verdict.at_ms <= self._last_ms)
        return report

    async def _read_denials(self, kafka: str, topic: str) -> None:
        async with open_log(kafka, topic) as log:
            cut = await log.cut(self._start_ms)
            with show_progress("judging", cut.offsets) as advance:
                async for record in log.read_in_time(cut):
                    if record.timestamp > self._last_ms + LATEST_ARRIVAL_MS:
                        break
                    self._report.records += 1
                    if self._report.records % BATCH == 0:
                        advance(BATCH)
                    try:
                        denials = decode_denials(record.value)
                    except UndecodableRecord:
                        self._report.undecodable += 1
                        continue
                    self.backtest.feed(record.partition, record.offset, denials, taken_ms=record.timestamp)

    def _count(self, record: Recorded) -> None:
        assert self._refolder is not None  # noqa: S101 decisions come only where they are folded
        self._report.records += 1
        self.backtest.count(record)
        for folds in self._refolder.add(record):
            self._feed(folds)

    def _feed(self, folds: Any) -> None:
        self.backtest.feed(0, self._offset, folds, taken_ms=folds.at_ms)
        self._offset += 1

    def _finish(self) -> Report:
        report = self._report
        if self._refolder is not None:
            for folds in self._refolder.flush():
                self._feed(folds)
            report.uncertain, report.unknown = self._refolder.uncertain, self._refolder.unknown
            report.missing, report.doubled = self._history.missing, self._history.doubled
            report.undecodable = self._history.undecodable
        self.backtest.finish()
        report.seconds = round(time.monotonic() - self._began_s, 3)
        report.rules, report.doubts = self.backtest.rules, self.backtest.list_doubts()
        report.verdicts, report.evicted = self.backtest.verdicts, self.backtest.evicted
        return report


async def read_verdicts(kafka: str, since_ms: int) -> list[VerdictEvent]:
    """Read what was decided about subjects since then, in the order of its arrival.

    Raises:
        KafkaUnavailable: No broker answered.
        TopicMissing: There is no such topic.
        HistoryLost: Retention was faster.
    """
    verdicts = []
    async with open_log(kafka, VERDICTS.name) as log:
        async for record in log.read_in_time(await log.cut(since_ms)):
            try:
                event = decode(VERDICTS.name, record.value)
            except Undecodable:
                continue
            if isinstance(event, VerdictEvent):
                verdicts.append(event)
    return verdicts


def _encode_event(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def print_report(report: Report, stream: TextIO) -> None:
    """Write a report for people."""
    width = None if stream.isatty() else 160
    console = Console(file=stream, highlight=False, soft_wrap=True, markup=False, width=width)
    rate = report.records / report.seconds if report.seconds else 0
    console.print(f"{report.records:,} records through rules {report.candidate} in {report.seconds:,.1f} s ({rate:,.0f}/s)")
    for text, count in (
        ("decisions were dropped by enforcers and are missing", report.missing),
        ("records were read twice and count once", report.doubled),
        ("records are no events", report.undecodable),
        ("refusals by several limits under a throttle factor count by all of them", report.uncertain),
        ("refusals are by limits that the policies do not have", report.unknown),
        ("subjects were forgotten for want of room", report.evicted),
    ):
        if count:
            console.print(f"  {count:,} {text}")
    table = Table("rule", box=None, pad_edge=False)
    for title in ("denials", "offences", "warn", "tighten", "ban", "subjects banned", "else", "censored by bans"):
        table.add_column(title, justify="right")
    for name, rule in report.rules.items():
        otherwise = ", ".join(f"{count:,} {result}" for result, count in sorted(rule.results.items()))
        table.add_row(
            name,
            f"{rule.denials:,}",
            f"{rule.offences:,}",
            *(f"{rule.penalties[penalty]:,}" for penalty in ("warn", "tighten", "ban")),
            f"{rule.banned_subjects:,}",
            otherwise or "-",
            f"{rule.censored_share:.2%} of {rule.checks:,}" if rule.checks else "not known",
        )
    console.print(table)
    if report.difference is not None:
        _print_difference(report.difference, console)
    if report.doubts:
        doubts = Table("most likely innocent", "rules", box=None, pad_edge=False)
        for title in ("bans", "denied", "passed", "users"):
            doubts.add_column(title, justify="right")
        for doubt in report.doubts:
            share = f"{doubt.admitted:,} ({doubt.admitted_share:.0%})"
            doubts.add_row(
                doubt.subject, ", ".join(doubt.rules), f"{doubt.bans}", f"{doubt.denials:,}", share, f"{doubt.users}"
            )
        console.print(doubts)


def _print_difference(difference: Difference, console: Console) -> None:
    versions = ", ".join(f"{count:,} by rules {version}" for version, count in difference.versions.most_common())
    console.print(
        f"bans that were imposed: {versions or 'none'}; of these the candidate finds {difference.same:,}"
        f" ({difference.same_ids:,} with the same verdict id)"
    )
    for title, verdicts in (("banned by the candidate alone", difference.only_candidate), ("spared", difference.only_live)):
        if verdicts:
            console.print(f"{title}: {len(verdicts):,}")
            for verdict in verdicts[:MOST_DOUBTED]:
                at = datetime.fromtimestamp(verdict.at_ms / 1000, UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")
                console.print(f"  {at} {verdict.subject} {verdict.rule}: {verdict.reason}")
