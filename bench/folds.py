"""How many folds one core takes through all rules: ``python -m bench.folds``.

The detector's own decoder, shard and drain, without Kafka and Redis: what a partition's agent spends on a record before
anything has effect. Records hold 20 folds, spread evenly over many subjects, half of them users and half addresses; every
half second of event time what changed is drained, as the flush does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from config.document import read_document
from detector.records import decode_denials
from detector.rules import Rules
from detector.shard import Shard
from topics.wire import Fold, FoldsEvent

FLUSH_EVERY_MS = 500
DATED_MS = 1_800_000_000_000
ACTIONS = {"user": ("login", "search"), "ip": ("login",)}
LIMITS = {"user": ("per_user", "per_user", "per_user", "per_user_day"), "ip": ("per_ip", "per_ip", "per_ip", "per_ip_day")}
"""What the shipped rules count."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one run gave.

    Attributes:
        folds_per_s: Of CPU time.
        decoding: Share of the time that went into reading records.
        crossings: Offences found.
        subjects: Remembered at the end.
        evicted: Forgotten for lack of room.
        row_bytes: Mean size of what was written for a subject.
    """

    folds_per_s: int
    decoding: float
    crossings: int
    subjects: int
    evicted: int
    row_bytes: int


def write_records(count: int, *, folds: int, subjects: int, step_ms: int) -> Iterator[bytes]:
    """Write records as an enforcer does, the same with each call."""
    choose = random.Random(1)  # noqa: S311 the same records each time
    names = [f"user=u{number:06d}-aaaa-bbbb-cccc-ddddeeee" for number in range(subjects // 2)]
    names += [f"ip=10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(subjects // 2)]
    for n in range(1, count + 1):
        at_ms = DATED_MS + n * step_ms
        held = []
        for _ in range(folds):
            subject = choose.choice(names)
            kind = subject.partition("=")[0]
            action, limit = choose.choice(ACTIONS[kind]), choose.choice(LIMITS[kind])
            users = () if kind == "user" else tuple(choose.getrandbits(48) for _ in range(2))
            refused, admitted = choose.randint(1, 3), choose.randint(0, 2)
            held.append(Fold(subject, action, action, limit, refused, at_ms - 40, at_ms, admitted, users))
        yield msgspec.json.encode(FoldsEvent("bench/0/boot", n, at_ms, held))


def measure(rules: Rules, records: list[bytes], *, folds: int, most: int) -> Speed:
    """Take all records through one shard."""
    shard = Shard(0, rules, {}, None, most=most)
    crossings, decoding_s, drained_ms, written, rows = 0, 0.0, DATED_MS, 0, 0
    started_s = time.process_time()
    for offset, value in enumerate(records):
        before_s = time.process_time()
        record = decode_denials(value)
        decoding_s += time.process_time() - before_s
        taken_ms = record.at_ms
        weighing = shard.weigh(offset, record, taken_ms=taken_ms)
        crossings += len(weighing.crossings)
        shard.accept(weighing)
        if taken_ms - drained_ms >= FLUSH_EVERY_MS:
            drained_ms = taken_ms
            sizes = [len(row) for row in shard.drain().rows.values() if row]
            written, rows = written + sum(sizes), rows + len(sizes)
    spent_s = time.process_time() - started_s
    return Speed(
        folds_per_s=round(len(records) * folds / spent_s),
        decoding=round(decoding_s / spent_s, 2),
        crossings=crossings,
        subjects=len(shard),
        evicted=shard.evicted,
        row_bytes=written // max(1, rows),
    )


def main(
    rules: Annotated[Path, typer.Option(help="Rules document.")] = Path("config/rules.yaml"),
    records: Annotated[int, typer.Option(min=1)] = 10_000,
    folds: Annotated[int, typer.Option(min=1, help="A record.")] = 20,
    subjects: Annotated[int, typer.Option(min=2)] = 100_000,
    step_ms: Annotated[int, typer.Option(min=1, help="Between records, in event time.")] = 5,
    most: Annotated[int, typer.Option(min=10, help="Subjects to remember at most.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1, help="The median counts.")] = 3,
) -> None:
    """Print folds per second of one core."""
    document = read_document(rules, Rules).model
    written = list(write_records(records, folds=folds, subjects=subjects, step_ms=step_ms))
    speeds = sorted(
        (measure(document, written, folds=folds, most=most) for _ in range(rounds)), key=lambda speed: speed.folds_per_s
    )
    speed = speeds[rounds // 2]
    typer.echo(
        f"{len(document.rules)} rules, {folds} folds a record, {len(written[0])} bytes: {speed.folds_per_s:,} folds/s per core "
        f"({speed.decoding:.0%} decoding); {speed.subjects:,} subjects, {speed.crossings:,} crossings, "
        f"{speed.evicted:,} evicted, {speed.row_bytes} bytes a row"
    )


if __name__ == "__main__":
    typer.run(main)
