from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from topics.errors import HistoryLost, TopicMissing
from topics.log import open_log
from topics.specs import OUTCOMES, TopicSpec

Make = Callable[[TopicSpec, int], Awaitable[TopicSpec]]
Write = Callable[..., Awaitable[None]]


async def delete_before(bootstrap: str, topic: str, partition: int, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(offset)})
    finally:
        await admin.close()


async def test_history_comes_in_order_of_arrival_over_all_partitions(
    kafka_bootstrap: str, make_topic: Make, write: Write
) -> None:
    spec = await make_topic(OUTCOMES, 3)
    for number in range(30):
        await write(spec.name, number * 7 % 3, b"%d" % number)
    async with open_log(kafka_bootstrap, spec.name) as log:
        cut = await log.cut()
        read = [record async for record in log.read_in_time(cut)]
    assert cut.offsets == 30
    assert [record.timestamp for record in read] == sorted(record.timestamp for record in read)
    for partition in range(3):
        assert [record.offset for record in read if record.partition == partition] == list(range(10))


async def test_a_cut_is_fixed_and_following_goes_on_where_it_ends(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(OUTCOMES, 2)
    await write(spec.name, 0, b"0", b"1")
    async with open_log(kafka_bootstrap, spec.name) as log:
        cut = await log.cut()
        await write(spec.name, 0, b"2")
        await write(spec.name, 1, b"3")
        assert [record.value async for record in log.read_in_time(cut)] == [b"0", b"1"]
        assert [record.value async for batch in log.read(cut) for record in batch] == [b"0", b"1"]
        followed: set[bytes | None] = set()
        async with asyncio.timeout(20):
            async for batch in log.follow(cut):
                followed |= {record.value for record in batch}
                if len(followed) == 2:
                    break
    assert followed == {b"2", b"3"}


async def test_a_time_chooses_what_arrived_then_or_later(kafka_bootstrap: str, make_topic: Make, write: Write) -> None:
    spec = await make_topic(OUTCOMES, 2)
    await write(spec.name, 0, b"old")
    async with open_log(kafka_bootstrap, spec.name) as log:
        (old,) = [record async for record in log.read_in_time(await log.cut())]
        while not [record async for record in log.read_in_time(await log.cut(old.timestamp + 1))]:
            await write(spec.name, 1, b"new")
        read = [record.value async for record in log.read_in_time(await log.cut(old.timestamp + 1))]
        assert set(read) == {b"new"}
        assert (await log.cut(old.timestamp + 86_400_000)).offsets == 0


async def test_what_retention_took_meanwhile_is_an_error_and_not_a_hole(
    kafka_bootstrap: str, make_topic: Make, write: Write
) -> None:
    spec = await make_topic(OUTCOMES, 1)
    await write(spec.name, 0, b"0", b"1", b"2")
    async with open_log(kafka_bootstrap, spec.name) as log:
        cut = await log.cut()
        await delete_before(kafka_bootstrap, spec.name, 0, 2)
        with pytest.raises(HistoryLost, match="run it again"):
            _ = [record async for record in log.read_in_time(cut)]
        assert (await log.cut()).edges == {0: 2}


async def test_a_missing_topic_is_named_and_not_made(kafka_bootstrap: str) -> None:
    for _ in range(2):
        with pytest.raises(TopicMissing, match="python -m topics ensure"):
            async with open_log(kafka_bootstrap, "no-such-topic"):
                pass
