from dataclasses import dataclass

from aiokafka import TopicPartition

from examples.topic_reader import decode_records
from topics.events import HeartbeatEvent

GOOD = b'{"type":"heartbeat","source":"e1/0/b","seq":3,"at_ms":1}'


@dataclass
class Record:
    value: bytes


def test_records_are_decoded_by_their_topic_and_what_is_none_of_ours_is_counted() -> None:
    batches = {
        TopicPartition("decisions", 0): [Record(GOOD), Record(b"{"), Record(b"")],
        TopicPartition("verdicts", 0): [Record(GOOD)],
    }
    events, undecodable = decode_records(batches)
    assert events == [HeartbeatEvent(source="e1/0/b", seq=3, at_ms=1)]
    assert undecodable == 3


def test_tombstone_is_no_event() -> None:
    assert decode_records({TopicPartition("subjects", 0): [Record(None)]}) == ([], 1)  # type: ignore[arg-type]
