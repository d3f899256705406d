from __future__ import annotations

from detector.publisher import _wrap_state
from topics.events import RECORDS, AbuseState, Ban, SubjectEvent


def test_state_is_copied_as_the_script_wrote_it() -> None:
    ban = Ban(until_ms=9, level=3, rule="r", verdict_id="v", scope=("login",))
    state = AbuseState(rev=4, score=1000, bans=(ban,))
    value = _wrap_state("user=m", state.model_dump_json().encode())
    assert RECORDS["subjects"].validate_json(value) == SubjectEvent(subject="user=m", state=state)
