"""A million unique attackers and one brute-forcer among them: ``python -m bench.attack``.

All partitions in one process, without Kafka and Redis, in event time: what the detector remembers, forgets and finds. The
brute-forcer is refused evenly; it has to be found with the very denial that crosses, however many strangers come between.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer

from config.document import read_document
from detector.records import decode_denials
from detector.rules import Rules
from detector.shard import Shard
from topics.partition import choose_partition
from topics.wire import Fold, FoldsEvent

DATED_MS = 1_800_000_000_000
PARTITIONS = 8
FLUSH_EVERY_MS = 500
BRUTE_FORCER = "user=brute-forcer"


def main(
    rules: Annotated[Path, typer.Option(help="Rules document.")] = Path("config/rules.yaml"),
    attackers: Annotated[int, typer.Option(min=1)] = 1_000_000,
    seconds: Annotated[int, typer.Option(min=1, help="Of event time.")] = 300,
    every_ms: Annotated[int, typer.Option(min=1, help="The brute-forcer is refused so often.")] = 4_000,
    folds: Annotated[int, typer.Option(min=1, help="A record.")] = 20,
) -> None:
    """Print memory, evictions, speed, and with which of its denials the brute-forcer was found."""
    document = read_document(rules, Rules).model
    shards = [Shard(number, document, {}, None) for number in range(PARTITIONS)]
    waiting: list[list[Fold]] = [[] for _ in shards]
    numbers, drained_ms, next_ms, denials = [0] * PARTITIONS, DATED_MS, DATED_MS, 0
    found: list[int] = []
    spent_s, slowest_s, largest_bytes = 0.0, 0.0, 0

    def send(partition: int, at_ms: int) -> float:
        numbers[partition] += 1
        value = msgspec.json.encode(FoldsEvent("bench/0/boot", numbers[partition], at_ms, waiting[partition]))
        waiting[partition] = []
        started_s = time.process_time()
        weighing = shards[partition].weigh(numbers[partition] - 1, decode_denials(value), taken_ms=at_ms)
        shards[partition].accept(weighing)
        found.extend(denials for crossing in weighing.crossings if crossing.subject == BRUTE_FORCER)
        return time.process_time() - started_s

    for number in range(attackers):
        at_ms = DATED_MS + number * seconds * 1000 // attackers
        subjects = [f"user=attacker-{number:07d}"]
        if at_ms >= next_ms:
            next_ms += every_ms
            denials += 1
            subjects.append(BRUTE_FORCER)
        for subject in subjects:
            partition = choose_partition(subject.encode(), PARTITIONS)
            waiting[partition].append(Fold(subject, "login", "login", "per_user", 1, at_ms, at_ms))
            if len(waiting[partition]) >= folds or subject == BRUTE_FORCER:
                took_s = send(partition, at_ms)
                spent_s, slowest_s = spent_s + took_s, max(slowest_s, took_s)
        if at_ms - drained_ms >= FLUSH_EVERY_MS:
            drained_ms = at_ms
            started_s = time.process_time()
            for shard in shards:
                shard.drain()
            spent_s += time.process_time() - started_s
            largest_bytes = max(largest_bytes, psutil.Process().memory_info().rss)
    typer.echo(
        f"{attackers:,} attackers in {seconds} s: {spent_s:.1f} s CPU, slowest record {slowest_s * 1000:.0f} ms; "
        f"RSS {largest_bytes / 2**20:.0f} MiB; {sum(map(len, shards)):,} remembered, "
        f"{sum(shard.evicted for shard in shards):,} evicted; brute-forcer found with its denials {found or 'never'}"
    )


if __name__ == "__main__":
    typer.run(main)
