"""The analyst's command line: ``python -m topics ensure | tail | audit | schemas``.

Exit codes: 0 all is well; 1 a finding (a difference, a fault in the audit); 2 the command line is wrong; 3 Kafka or the topic
is not there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast, get_args

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from topics.audit import AuditedTopic
from topics.ensure import Report, ensure
from topics.errors import HistoryLost, KafkaUnavailable, TopicMissing
from topics.events import RECORDS
from topics.filters import Filters, parse_span_ms
from topics.proof import prove, say_report
from topics.schema_files import write_schemas
from topics.tail import Output, tail

FINDING, WRONG_USE, NOT_THERE = 1, 2, 3

RECENT = "10m"
"""Where a fast topic is read from when nothing is said; the slow ones are short enough to be read whole."""

FAST_TOPICS = frozenset({"decisions", "denials", "outcomes"})

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:,\[\]/]+):([0-9]{1,5})")

app = typer.Typer(
    help="Topics of Ratchet: make them, read them, prove that they are complete.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


def _check_bootstrap(value: str) -> str:
    for address in value.split(","):
        found = _ADDRESS.fullmatch(address.strip())
        if not found or not 0 < int(found[2]) < 65_536:
            raise typer.BadParameter(f"{address!r} is not host:port")
    return value


Bootstrap = Annotated[
    str, typer.Option(help="Kafka, host:port[,host:port].", envvar="KAFKA_BOOTSTRAP", callback=_check_bootstrap)
]
Wait = Annotated[float, typer.Option(help="Seconds to wait for a Kafka that is not up.", min=0.0, max=86_400.0)]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of lines for people.")]
DEFAULT_BOOTSTRAP = "127.0.0.1:9092"


def _tell(message: str) -> None:
    """Tell a person something that is no result."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


@app.command("ensure")
def ensure_command(bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, wait: Wait = 0.0, as_json: Json = False) -> None:
    """Make the topics that are missing; list where others differ. Exit 1 when one keeps less than it should."""
    report = asyncio.run(ensure(bootstrap, wait_s=wait, tell=_tell))
    if as_json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(report) | {"is_sound": report.is_sound}) + "\n")
    else:
        _print_report(report)
    raise typer.Exit(0 if report.is_sound else FINDING)


def _print_report(report: Report) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for topic, partitions in report.partitions.items():
        console.print(f"{topic}: {'made' if topic in report.created else 'there'}, {partitions} partitions")
    if report.differences:
        table = Table("topic", "what", "wanted", "found", "", box=None, pad_edge=False)
        for each in report.differences:
            table.add_row(each.topic, each.what, each.wanted, each.found, each.remedy or "kept as it is")
        console.print(table)


@app.command("audit")
def audit_command(
    topic: Annotated[str, typer.Argument(help="decisions, denials or outcomes.")],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    wait: Wait = 0.0,
    strict: Annotated[bool, typer.Option(help="Exit 1 also when a source announced that it dropped events.")] = False,
    as_json: Json = False,
) -> None:
    """Prove per source that nothing is missing and nothing doubled. Exit 1 with the ranges if not."""
    if topic not in get_args(AuditedTopic):
        raise typer.BadParameter(f"cannot audit {topic!r}: events are numbered in decisions, denials and outcomes alone")
    report = asyncio.run(prove(bootstrap, cast("AuditedTopic", topic), wait_s=wait, tell=_tell))
    if as_json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(report, str_keys=True) | {"is_faulty": report.is_faulty}) + "\n")
    else:
        output = Output(sys.stdout, "lines")
        for line in say_report(report):
            output.show_line(line)
    raise typer.Exit(FINDING if report.is_faulty or (strict and report.has_announced) else 0)


@app.command("tail")
def tail_command(
    topic: Annotated[str, typer.Argument(help=f"{', '.join(RECORDS)}.")],
    user: Annotated[str | None, typer.Option(help="A user id, as the caller sends it.")] = None,
    subject: Annotated[str | None, typer.Option(help="kind=value, such as ip=203.0.113.7.")] = None,
    action: Annotated[str | None, typer.Option(help="An action, such as login.")] = None,
    outcome: Annotated[str | None, typer.Option(help="allow, deny or ban.")] = None,
    reason: Annotated[str | None, typer.Option(help="ok, limit, banned, throttled or open.")] = None,
    rule: Annotated[str | None, typer.Option(help="The rule of a verdict or of a ban.")] = None,
    policy: Annotated[str | None, typer.Option(help="The policy that answered.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help=f"90s, 10m, 2h, 7d: from what arrived then. {RECENT} for {', '.join(sorted(FAST_TOPICS))}."),
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="All that is there; the default of slow topics.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Stop after that many records.", min=1)] = None,
    follow: Annotated[bool, typer.Option(help="Wait for more at the end.")] = True,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Show records as they come: what, whom, why. Ctrl-C ends."""
    filters = Filters(user=user, subject=subject, action=action, outcome=outcome, reason=reason, rule=rule, policy=policy)
    if topic not in RECORDS:
        raise typer.BadParameter(f"unknown topic {topic!r}: one of {', '.join(RECORDS)}")
    if since is not None and from_beginning:
        raise typer.BadParameter("--since and --from-beginning exclude each other")
    try:
        filters.check(topic)
        span = since or (RECENT if topic in FAST_TOPICS and not from_beginning else None)
        since_ms = None if span is None else max(0, int(time.time() * 1000) - parse_span_ms(span))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    output = Output(sys.stdout, "json" if as_json else "lines")
    try:
        asyncio.run(
            tail(bootstrap, topic, filters, output, since_ms=since_ms, follows=follow, limit=limit, wait_s=wait, tell=_tell)
        )
    except BrokenPipeError:
        # Whoever read has what they wanted. What is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        # The way in which following ends.
        sys.stdout.flush()


@app.command("schemas")
def schemas_command(out: Annotated[Path, typer.Option(help="Folder to write to.")]) -> None:
    """Write the JSON Schemas of all topics and events."""
    try:
        written = write_schemas(out)
    except OSError as error:
        raise typer.BadParameter(f"cannot write to {out}: {error.strerror}") from error
    _tell(f"wrote {len(written)} schemas to {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None for those of the process.

    Returns:
        The exit code.
    """
    # What the client logs about a broker that is away is said once, in our own words.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        code = app(args=arguments, prog_name="python -m topics", standalone_mode=False)
    except TyperException as error:
        _tell(error.format_message())
        return error.exit_code
    except (KafkaUnavailable, TopicMissing, HistoryLost) as error:
        _tell(str(error))
        return NOT_THERE
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
