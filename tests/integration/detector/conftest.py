"""One detector for all tests of a module, on the session's Redis and Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.detector_under_test import DetectorProcess, Enforcer, open_enforcer, run_detector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True, socket_timeout=30) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def detector(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DetectorProcess]:
    process = DetectorProcess(kafka_bootstrap, redis_url, tmp_path_factory.mktemp("detector") / "detector.log")
    async with run_detector(process):
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def enforcer(detector: DetectorProcess) -> AsyncIterator[Enforcer]:
    async with open_enforcer(detector.kafka) as enforcer:
        yield enforcer
