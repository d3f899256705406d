"""From records to factors in force and their audit, on factors and an audit that are kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from config.document import read_document
from detector.abuse_store import RedisAway
from detector.factor_store import InForce
from detector.publisher import KafkaAway, Notice
from detector.records import UndecodableRecord
from detector.rules import Rules
from detector.throttle_keeper import OLDEST_TICK_MS, ThrottleKeeper
from topics.wire import HeartbeatEvent, LoadEvent, OutcomeEvent

RULES = read_document(Path("config/rules.yaml"), Rules).model
T0 = 1_800_000_000_000
FAST, SLOW, SLOWER = 500, 640, 700
"""22 ms, 360 ms and 1.2 s; the last is above the shipped bound."""


@dataclass
class Factors:
    """Redis, as far as the keeper sees it."""

    held: tuple[int, int] | None = None
    """What another detector holds."""
    stored: tuple[int, int] = (1000, 1000)
    is_away: bool = False
    puts: list[tuple[str, int, int]] = field(default_factory=list)

    async def read(self, action: str) -> tuple[int, int]:
        assert action == "login"
        return self.stored

    async def put(self, action: str, factor: int, probes: int) -> InForce:
        if self.is_away:
            raise RedisAway("gone")
        self.puts.append((action, factor, probes))
        return InForce(T0, False, *self.held) if self.held else InForce(T0, True, factor, probes)


@dataclass
class World:
    factors: Factors = field(default_factory=Factors)
    told: list[Notice] = field(default_factory=list)
    is_kafka_away: bool = False
    second: int = 0
    offset: int = -1

    def __post_init__(self) -> None:
        self.keeper = ThrottleKeeper(RULES, self.factors, self._tell)

    async def _tell(self, notices: Sequence[Notice]) -> None:
        if self.is_kafka_away:
            raise KafkaAway("gone")
        self.told += notices

    async def write(self, record: OutcomeEvent | LoadEvent | HeartbeatEvent, taken_ms: int, now_ms: int | None = None) -> None:
        self.offset += 1
        value = msgspec.json.encode(record)
        await self.keeper.follow(0, self.offset, value, taken_ms=taken_ms, now_ms=now_ms or taken_ms)

    async def pass_second(self, bucket: int, *, admitted: int = 100, late_ms: int = 0) -> None:
        at_ms = T0 + self.second * 1000
        self.second += 1
        now_ms = at_ms + late_ms
        await self.write(OutcomeEvent("one", 2 * self.second, "login", at_ms, 100, 0, 0, {bucket: 100}), at_ms, now_ms)
        await self.write(LoadEvent("one", 2 * self.second + 1, "login", at_ms, admitted, 10, 1_000_000), at_ms, now_ms)


async def test_overload_is_put_in_force_and_told_with_its_figures() -> None:
    world = World()
    for bucket in (FAST, FAST, SLOWER, SLOWER, FAST):
        await world.pass_second(bucket)
    [(action, factor, probes), *_] = world.factors.puts
    assert (action, probes) == ("login", 1000)
    assert factor < 100
    verdict = world.told[0].verdict
    assert (verdict.subject, verdict.penalty, verdict.actor, verdict.factor) == ("action=login", "throttle", "detector", factor)
    assert "against a setpoint of" in verdict.reason
    assert "10.0% of the limits in use" in verdict.reason
    assert world.keeper.throttled == 1


async def test_factor_is_renewed_each_tick_and_told_once() -> None:
    world = World()
    for bucket in (FAST, SLOWER, SLOWER, SLOWER):
        await world.pass_second(bucket)
    assert len(world.factors.puts) == 2
    assert len(world.told) == 1


async def test_same_records_give_the_same_verdicts() -> None:
    verdicts = []
    for _ in range(2):
        world = World()
        for bucket in (FAST, SLOWER, SLOWER, SLOW, SLOWER, SLOWER, FAST, FAST, FAST):
            await world.pass_second(bucket)
        verdicts.append([notice.verdict for notice in world.told])
    assert verdicts[0] == verdicts[1]
    assert verdicts[0]


async def test_new_owner_begins_with_the_factor_in_force() -> None:
    world = World(Factors(stored=(300, 1000)))
    await world.pass_second(SLOW, admitted=300)
    await world.pass_second(SLOW, admitted=300)
    [(_, factor, _)] = world.factors.puts
    assert factor == 540, "one step up from what it found"


async def test_factor_that_another_holds_is_followed_and_not_told() -> None:
    world = World(Factors(held=(700, 1000)))
    for bucket in (FAST, SLOWER, SLOWER, SLOWER):
        await world.pass_second(bucket)
    assert world.told == []
    assert world.keeper._partitions[0].states["login"].per_mille == 700


async def test_while_redis_is_away_the_record_counts_as_followed() -> None:
    world = World(Factors(is_away=True))
    for bucket in (FAST, SLOWER, SLOWER):
        await world.pass_second(bucket)
    assert world.told == []
    assert world.keeper.offsets == {0: world.offset}


async def test_what_kafka_did_not_take_is_told_when_it_is_back() -> None:
    world = World(is_kafka_away=True)
    for bucket in (FAST, SLOWER, SLOWER):
        await world.pass_second(bucket)
    assert world.told == []
    world.is_kafka_away = False
    await world.pass_second(FAST)
    assert len(world.told) == 1


async def test_what_is_long_over_throttles_nobody() -> None:
    world = World()
    for bucket in (FAST, SLOWER, SLOWER, SLOWER):
        await world.pass_second(bucket, late_ms=OLDEST_TICK_MS + 1)
    assert world.factors.puts == []


async def test_partitions_that_others_read_are_forgotten() -> None:
    world = World()
    await world.pass_second(FAST)
    world.keeper.keep({1})
    assert world.keeper.offsets == {}


async def test_undecodable_record_counts_as_followed() -> None:
    world = World()
    with pytest.raises(UndecodableRecord):
        await world.keeper.follow(0, 5, b"?", taken_ms=T0, now_ms=T0)
    assert world.keeper.offsets == {0: 5}
