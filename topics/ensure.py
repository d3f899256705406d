"""Make the topics that are missing, and say where those that exist differ from their specs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from topics.connection import Tell, keep_silent, open_admin
from topics.errors import KafkaUnavailable
from topics.specs import LARGEST_REPLICATION, SPECS, TopicSpec

LEADER_TIMEOUT_S = 20.0
"""How long a new topic may take until each of its partitions has a leader."""

LEADER_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class TopicState:
    """What the broker says of one topic.

    Attributes:
        partitions: How many it has.
        replication: Replicas of its least replicated partition.
        config: Configuration in force, defaults included.
    """

    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a topic differs from its spec, with what a person can do.

    Attributes:
        topic: Name of the topic.
        what: ``partitions``, ``replication``, a configuration key, or ``topic`` when it could not be made.
        wanted: As the spec has it.
        found: As the broker has it.
        is_harmful: Less is kept or promised than the spec says. More is the operator's good right.
        remedy: A command for the operator; empty when nothing needs doing.
    """

    topic: str
    what: str
    wanted: str
    found: str
    is_harmful: bool
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What :func:`ensure` did and found.

    Attributes:
        created: Topics that it made.
        partitions: Partitions of each topic that is there now; what producers have to use.
        differences: Harmful ones first.
    """

    created: tuple[str, ...]
    partitions: Mapping[str, int]
    differences: tuple[Difference, ...]

    @property
    def is_sound(self) -> bool:
        """Whether every topic is there and keeps what its spec promises."""
        return not any(difference.is_harmful for difference in self.differences)


def compare(spec: TopicSpec, state: TopicState, replication: int) -> tuple[Difference, ...]:
    """Compare a topic with its spec. Pure.

    Args:
        spec: What it has to be.
        state: What the broker says.
        replication: Replicas that are possible here, from 1 to 3.
    """
    differences: list[Difference] = []
    if state.partitions != spec.partitions:
        is_harmful = state.partitions < spec.partitions
        remedy = f"kafka-topics.sh --alter --topic {spec.name} --partitions {spec.partitions}  # moves keys: stop all first"
        differences.append(
            Difference(
                spec.name,
                "partitions",
                str(spec.partitions),
                str(state.partitions),
                is_harmful,
                remedy if is_harmful else "",
            )
        )
    if state.replication < replication:
        remedy = "kafka-reassign-partitions.sh --execute --reassignment-json-file FILE"
        differences.append(Difference(spec.name, "replication", str(replication), str(state.replication), True, remedy))
    # What a topic of that many replicas should have: two in sync of a single one would refuse every write.
    for key, wanted in spec.configure(state.replication).items():
        found = state.config.get(key, "")
        if found != wanted:
            is_harmful = _is_less(key, wanted, found)
            remedy = f"kafka-configs.sh --alter --entity-type topics --entity-name {spec.name} --add-config {key}={wanted}"
            differences.append(Difference(spec.name, key, wanted, found, is_harmful, remedy if is_harmful else ""))
    return tuple(differences)


def _is_less(key: str, wanted: str, found: str) -> bool:
    """Tell whether a configuration keeps or promises less than the spec."""
    if key == "cleanup.policy":
        return True
    if key == "retention.ms":
        return found != "-1" and (wanted == "-1" or int(found or 0) < int(wanted))
    if key in {"max.message.bytes", "min.insync.replicas"}:
        return int(found or 0) < int(wanted)
    return False


async def ensure(
    bootstrap: str, specs: Sequence[TopicSpec] = SPECS, *, wait_s: float = 0.0, tell: Tell = keep_silent
) -> Report:
    """Make the topics that are missing, wait until they have leaders, and compare all with their specs.

    Idempotent, and safe when several processes run it at once. What exists is never changed: a retention that an operator
    chose must not be overruled by the next process that starts. Replicas of a new topic: one per live broker, at most 3.

    Args:
        bootstrap: ``host:port[,host:port]``.
        specs: Topics to look after.
        wait_s: How long to wait for a broker that is not up; at 0 there is one attempt.
        tell: Is told what is waited for.

    Raises:
        KafkaUnavailable: No broker answered, or it went away on the way. Topics may be half made: call again.
    """
    async with open_admin(bootstrap, wait_s=wait_s, tell=tell) as admin:
        try:
            return await _ensure(admin, specs)
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(bootstrap, error) from error


async def _ensure(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> Report:
    replication = min(LARGEST_REPLICATION, len((await admin.describe_cluster())["brokers"]))
    there = await _describe(admin, specs)
    missing = [spec for spec in specs if spec.name not in there]
    refused: list[Difference] = []
    created: list[str] = []
    if missing:
        wishes = [
            NewTopic(spec.name, spec.partitions, replication, topic_configs=spec.configure(replication)) for spec in missing
        ]
        answer = await admin.create_topics(wishes, timeout_ms=int(LEADER_TIMEOUT_S * 1000))
        for name, code, message in (entry[:3] for entry in answer.topic_errors):
            if code == 0:
                created.append(name)
            # Another process was faster; that is as good.
            elif code != TopicAlreadyExistsError.errno:
                refused.append(
                    Difference(name, "topic", "made", f"refused: {message or code}", True, "ask who runs the broker")
                )
    gone = {difference.topic for difference in refused}
    states = await _await_leaders(admin, [spec for spec in specs if spec.name not in gone])
    found = [
        difference for spec in specs if spec.name in states for difference in compare(spec, states[spec.name], replication)
    ]
    return Report(
        created=tuple(created),
        partitions={spec.name: states[spec.name].partitions for spec in specs if spec.name in states},
        differences=tuple(sorted((*refused, *found), key=lambda difference: not difference.is_harmful)),
    )


async def _await_leaders(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> dict[str, TopicState]:
    async with asyncio.timeout(LEADER_TIMEOUT_S):
        while True:
            states = await _describe(admin, specs)
            if len(states) == len(specs):
                return states
            await asyncio.sleep(LEADER_POLL_S)


async def _describe(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> dict[str, TopicState]:
    """Describe those of the topics that exist and have a leader everywhere."""
    names = {spec.name for spec in specs}
    # All topics are asked for: a request that names a missing one makes it, with the broker's defaults, on a default broker.
    topics = {
        topic["topic"]: topic["partitions"]
        for topic in await admin.describe_topics()
        if topic["topic"] in names
        and topic["error_code"] == 0
        and topic["partitions"]
        and all(partition["leader"] >= 0 for partition in topic["partitions"])
    }
    if not topics:
        return {}
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in topics])
    configs = {
        resource[3]: {entry[0]: entry[1] or "" for entry in resource[4]}
        for answer in answers
        for resource in answer.resources
        if resource[0] == 0
    }
    return {
        name: TopicState(len(partitions), min(len(partition["replicas"]) for partition in partitions), configs[name])
        for name, partitions in topics.items()
        if name in configs
    }
