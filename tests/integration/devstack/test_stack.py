"""A stack of real servers: reachable where it says, killable, restartable, and gone afterwards."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis


async def test_redis_answers_where_the_fixture_says(redis_client: Redis) -> None:
    assert await redis_client.set("key", "value")


async def test_kafka_makes_a_topic_where_the_fixture_says(kafka_bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("devstack-test", num_partitions=1, replication_factor=1)])
        assert "devstack-test" in await admin.list_topics()
    finally:
        await admin.close()
