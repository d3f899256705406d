"""``python -m enforcer simulate``: recorded decisions through a candidate document."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TextIO

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from config.document import DocumentError, read_document
from enforcer.limits.policy import Policies
from enforcer.limits.policy_document import PoliciesDocument
from enforcer.simulation.simulation import Report, Simulation, Truth, UserChanges
from topics.errors import HistoryLost, KafkaUnavailable, TopicMissing
from topics.filters import parse_moment_ms
from topics.history import DecisionHistory
from topics.specs import DECISIONS

UNTRUE, BAD_INPUT, NOT_THERE = 1, 2, 3
"""Exit codes: the record is not repeated; the command line, a document or the file is bad; Kafka or the topic is not there."""

MOST_LISTED = 10
_NO_END = 2**63


def simulate(
    policies: Annotated[Path, typer.Option(help="The candidate: a policies document.")],
    since: Annotated[
        str | None,
        typer.Option("--from", help="24h, 90m: from then on; or a time, 2026-11-24T12:00Z. [default: 24h; of a file, all]"),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Up to then, in the same forms.")] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="The document that was in force: its simulation has to repeat the record.")
    ] = None,
    kafka: Annotated[str, typer.Option(help="Kafka bootstrap servers.", envvar="KAFKA_BOOTSTRAP")] = "127.0.0.1:9092",
    topic: Annotated[str, typer.Option(help="Where the decisions are.")] = DECISIONS.name,
    file: Annotated[
        Path | None, typer.Option(help="Read this instead: JSON lines, as `python -m topics tail decisions --json` writes.")
    ] = None,
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="For people, or one JSON object.")] = "text",
) -> None:
    """Show what a candidate document would have changed. Exit 1 when --recorded does not repeat the record."""
    now_ms = time.time_ns() // 1_000_000
    try:
        first_ms = parse_moment_ms(since or "24h", now_ms) if since or file is None else 0
        last_ms = parse_moment_ms(until, now_ms) if until is not None else now_ms if file is None else _NO_END
        simulation = Simulation(
            Policies.compile(read_document(policies, PoliciesDocument)),
            Policies.compile(read_document(recorded, PoliciesDocument)) if recorded is not None else None,
        )
    except DocumentError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        raise typer.Exit(BAD_INPUT) from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if first_ms >= last_ms:
        raise typer.BadParameter(f"--from {since} is not before --to {until or 'now'}")
    history = DecisionHistory(simulation.feed, first_ms, last_ms, title="simulating")
    try:
        if file is None:
            asyncio.run(history.read_topic(kafka, topic))
        else:
            history.read_file(file)
    except (KafkaUnavailable, TopicMissing, HistoryLost) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(NOT_THERE) from error
    except OSError as error:
        sys.stderr.write(f"{file}: cannot be read: {error.strerror}\n")
        raise typer.Exit(BAD_INPUT) from error
    report = simulation.report
    report.missing, report.doubled, report.undecodable = history.missing, history.doubled, history.undecodable
    if output == "json":
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        print_report(report, sys.stdout)
    raise typer.Exit(0 if report.truth is None or report.truth.is_sound else UNTRUE)


def print_report(report: Report, stream: TextIO) -> None:
    """Write a report for people."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    if not report.decisions:
        console.print("no decisions in that time")
        return
    first, last = (_say_moment(at_ms) for at_ms in (report.first_ms, report.last_ms))
    console.print(f"{report.decisions:,} decisions, {first} to {last}, through candidate {report.candidate}")
    for text, count in (
        ("refusals that clients answered from their own memory are not in it one by one", report.suppressed),
        ("decisions were dropped by enforcers and are missing", report.missing),
        ("records were read twice and count once", report.doubled),
        ("records are no events", report.undecodable),
        ("buckets were forgotten for want of room and count as full", report.forgotten),
    ):
        if count:
            console.print(f"  {count:,} {text}")
    if report.not_simulated:
        console.print(f"  as they were: {_say_counts(report.not_simulated)}")
    _print_policies(report, console)
    _print_users(report, console)
    if report.truth is not None:
        _print_truth(report.truth, console)


def _print_policies(report: Report, console: Console) -> None:
    table = Table("policy", box=None, pad_edge=False)
    for title in ("checks", "allow → deny", "deny → allow", "still allowed", "still denied"):
        table.add_column(title, justify="right")
    for name, each in sorted(report.policies.items(), key=lambda item: -item[1].checks):
        shares = (f"{count:,} ({count / each.checks:.2%})" for count in (each.now_denied, each.now_allowed))
        table.add_row(name, f"{each.checks:,}", *shares, f"{each.still_allowed:,}", f"{each.still_denied:,}")
    console.print(table)
    refused = sum(each.refused_content for each in report.policies.values())
    if refused:
        console.print(f"{refused:,} of them would be INVALID_ARGUMENT: a cost above the capacity never passes")


def _print_users(report: Report, console: Console) -> None:
    more = "" if report.are_users_complete else " (more than are counted one by one)"
    denied = sum(1 for each in report.users.values() if each.now_denied)
    allowed = sum(1 for each in report.users.values() if each.now_allowed)
    console.print(f"users with refusals that were none: {denied:,}{more}; users let pass more often: {allowed:,}{more}")
    for title, count_of in (("allow → deny", _get_denied), ("deny → allow", _get_allowed)):
        worst = [item for item in sorted(report.users.items(), key=count_of, reverse=True)[:MOST_LISTED] if count_of(item)]
        if worst:
            table = Table("user", box=None, pad_edge=False)
            table.add_column(title, justify="right")
            table.add_column("first change")
            for item in worst:
                table.add_row(repr(item[0])[1:-1], f"{count_of(item):,}", _say_moment(item[1].first_ms))
            console.print(table)


def _get_denied(item: tuple[str, UserChanges]) -> int:
    return item[1].now_denied


def _get_allowed(item: tuple[str, UserChanges]) -> int:
    return item[1].now_allowed


def _print_truth(truth: Truth, console: Console) -> None:
    share = f"{truth.repeated / truth.judged:.4%}" if truth.judged else "none"
    console.print(f"the document in force repeats {truth.repeated:,} of {truth.judged:,} decisions ({share})")
    if truth.differences:
        console.print(f"  differences: {_say_counts(truth.differences)}")
    if truth.not_judged:
        console.print(f"  not judged: {_say_counts(truth.not_judged)}")
    for example in truth.examples:
        console.print(f"  {example}", markup=False)


def _say_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _say_moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(" ", "seconds").replace("+00:00", "Z")
