"""Records of topic ``outcomes``."""

from __future__ import annotations

from enforcer.events.loads import Load
from enforcer.events.outcome_records import OutcomeRecords
from enforcer.events.outcomes import Merged
from topics.codec import decode
from topics.events import LoadEvent, OutcomeEvent
from topics.partition import choose_partition


def test_outcomes_and_loads_of_one_action_share_a_partition_and_its_numbers() -> None:
    records = OutcomeRecords("e1/0/b")
    records.add([("login", 5000, Merged(3, 1, 1, {575: 1, 460: 2}))], [Load("login", 4, 2, 166)], 4, now_ms=7300)
    ((partition, (first, second)),) = records.unsent().items()
    assert partition == choose_partition(b"login", 4)
    assert decode("outcomes", first) == OutcomeEvent(
        source="e1/0/b", n=1, action="login", second_ms=5000, count=3, errors=1, timeouts=1, latencies={460: 2, 575: 1}
    )
    assert decode("outcomes", second) == LoadEvent(
        source="e1/0/b", n=2, action="login", second_ms=6000, admitted_tokens=4, active_subjects=2, refill_milli_per_s=166
    )
