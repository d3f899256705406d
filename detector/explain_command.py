"""``python -m detector explain``: why somebody was banned."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Literal

import msgspec
import typer

from detector.backtest_command import BAD_INPUT, NOT_THERE, read_verdicts
from detector.explanation import Explanation, Proof, list_proofs, say_explanation
from detector.explanation import explain as put_together
from detector.records import UndecodableRecord, decode_denials
from topics.errors import HistoryLost, KafkaUnavailable, TopicMissing
from topics.events import VerdictEvent
from topics.log import Cut, open_log
from topics.specs import DENIALS
from topics.wire import FoldsEvent

_ARRIVES_EARLIEST_MS = 5_000
"""Clocks of enforcers may go so much ahead of the broker's."""


def explain(
    verdict_id: Annotated[str, typer.Argument(help="Id of the verdict.")] = "",
    subject: Annotated[str, typer.Option(help="kind=value: explain the subject's last verdict by a rule.")] = "",
    kafka: Annotated[str, typer.Option(help="Kafka bootstrap servers.", envvar="KAFKA_BOOTSTRAP")] = "127.0.0.1:9092",
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="For people, or one JSON object.")] = "text",
) -> None:
    """Show what a verdict rests on: counts, the folded records, the score, and what would have been one record earlier."""
    if bool(verdict_id) == bool(subject):
        raise typer.BadParameter("give the id of a verdict, or --subject kind=value")
    try:
        found = asyncio.run(_find(kafka, verdict_id, subject))
    except (KafkaUnavailable, TopicMissing, HistoryLost) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(NOT_THERE) from error
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(BAD_INPUT) from error
    if output == "json":
        typer.echo(msgspec.json.encode(found).decode())
    else:
        for line in say_explanation(found):
            typer.echo(line)


async def _find(kafka: str, verdict_id: str, subject: str) -> Explanation:
    verdict = choose_verdict(await read_verdicts(kafka, 0), verdict_id, subject)
    evidence = verdict.evidence
    if evidence is None:
        return put_together(verdict, ())
    proofs: list[Proof] = []
    async with open_log(kafka, DENIALS.name) as log:
        cut = await log.cut(max(0, evidence.first_ms - _ARRIVES_EARLIEST_MS))
        ends = {
            partition: min(end, evidence.offset + 1) if partition == evidence.partition else cut.starts[partition]
            for partition, end in cut.ends.items()
        }
        async for record in log.read_in_time(Cut(cut.starts, ends, cut.edges)):
            try:
                folds = decode_denials(record.value)
            except UndecodableRecord:
                continue
            if isinstance(folds, FoldsEvent):
                proofs += list_proofs(verdict, record.offset, folds.folds)
    return put_together(verdict, proofs)


def choose_verdict(verdicts: list[VerdictEvent], verdict_id: str, subject: str) -> VerdictEvent:
    """Find the verdict that is asked for.

    Raises:
        ValueError: There is none; says so.
    """
    if verdict_id:
        found = [verdict for verdict in verdicts if verdict.verdict_id == verdict_id]
        missing = f"no verdict {verdict_id} in topic verdicts"
    else:
        found = [verdict for verdict in verdicts if verdict.subject == subject and verdict.evidence is not None]
        missing = f"no rule's verdict about {subject} in topic verdicts"
    if not found:
        raise ValueError(missing)
    return found[-1]
