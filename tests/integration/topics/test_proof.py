from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from topics.events import ClosedEvent, DecisionEvent, Fold, FoldsEvent, GapEvent, HeartbeatEvent
from topics.proof import prove
from topics.specs import DECISIONS, DENIALS, TopicSpec

Make = Callable[[TopicSpec, int], Awaitable[TopicSpec]]
Write = Callable[..., Awaitable[None]]


def decision(seq: int, source: str = "a/0/1") -> DecisionEvent:
    return DecisionEvent(
        source=source,
        seq=seq,
        decided_at_ms=1,
        user_id="alice",
        action="login",
        policy="login",
        policy_version="1",
        outcome="allow",
        reason="ok",
    )


def mark(seq: int) -> HeartbeatEvent:
    return HeartbeatEvent(source="a/0/1", seq=seq, at_ms=5)


async def test_a_closed_source_is_proven_over_all_partitions(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(DECISIONS, 3)
    for seq in range(1, 31):
        await write(spec.name, seq % 3, decision(seq))
    for partition in range(3):
        await write(spec.name, partition, ClosedEvent(source="a/0/1", seq=30, at_ms=5))
    report = await prove(kafka_bootstrap, "decisions", name=spec.name)
    assert not report.is_faulty
    assert [(each.state, each.first, each.last, each.read) for each in report.accounts] == [("closed", 1, 30, 30)]


async def test_lost_doubled_dropped_and_undecodable_are_each_found(
    kafka_bootstrap: str, make_topic: Make, write: Write
) -> None:
    spec = await make_topic(DECISIONS, 2)
    gap = GapEvent(source="a/0/1", ranges=((4, 5),), at_ms=1, reason="spool_full")
    await write(spec.name, 0, decision(1), decision(3), decision(3), gap, b"{oops", mark(6))
    await write(spec.name, 1, decision(6), mark(6), decision(8))
    report = await prove(kafka_bootstrap, "decisions", name=spec.name)
    (account,) = report.accounts
    assert (account.missing.ranges, account.doubled.ranges, account.announced.ranges) == (((2, 2),), ((3, 3),), ((4, 5),))
    assert (account.tail, account.last) == (1, 6)
    assert [(bad.partition, bad.offset) for bad in report.bad_records] == [(0, 4)]


async def test_what_retention_took_is_no_fault(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(DECISIONS, 2)
    await write(spec.name, 0, decision(1), mark(2), decision(3), mark(3), mark(5), mark(6))
    await write(spec.name, 1, decision(2), mark(2), mark(3), decision(4), decision(5), mark(5), decision(6), mark(6))
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(spec.name, 0): RecordsToDelete(3)})
    await admin.close()
    report = await prove(kafka_bootstrap, "decisions", name=spec.name)
    assert not report.is_faulty
    assert report.edges == {0: 3}
    assert [(each.first, each.last) for each in report.accounts] == [(6, 6)]


async def test_denials_are_proven_by_partition(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(DENIALS, 2)
    fold = Fold(subject="user=a", action="login", policy="login", limit="per_user", count=1, first_ms=1, last_ms=1)
    for partition, numbers in ((0, (1, 2, 3)), (1, (1, 3))):
        await write(spec.name, partition, *(FoldsEvent(source="a/0/1", n=n, at_ms=1, folds=(fold,)) for n in numbers), mark(3))
    report = await prove(kafka_bootstrap, "denials", name=spec.name)
    assert [(each.partition, each.missing.ranges) for each in report.accounts] == [(1, ((2, 2),)), (0, ())]


async def test_a_system_at_work_is_never_accused(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(DECISIONS, 4)

    async def work() -> None:
        seq = 0
        while True:
            for _ in range(5):
                seq += 1
                await write(spec.name, seq * 7 % 4, decision(seq))
            for partition in range(4):
                await write(spec.name, partition, mark(seq))

    worker = asyncio.create_task(work())
    proven = 0
    try:
        async with asyncio.timeout(60):
            while proven < 50:
                report = await prove(kafka_bootstrap, "decisions", name=spec.name)
                assert not report.is_faulty
                proven = max((each.last for each in report.accounts), default=0)
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
