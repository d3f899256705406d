from __future__ import annotations

from enforcer.admin.ruling import KEEP_MS, Ruling
from enforcer.admin.subject_store import name_ruling_arguments
from lua.scripts import APPLY_RULING

RULING = Ruling("id", "d1", "user=m", "ban", "alice", "because", ("login", "api/*"), 5)


def test_arguments_stand_where_the_script_declares_them() -> None:
    keys, arguments = name_ruling_arguments(RULING)
    assert dict(zip(APPLY_RULING.keys, keys, strict=True)) == {"abuse": "abuse:{user=m}", "verdict": "verdict:{user=m}:id"}
    assert dict(zip(APPLY_RULING.argv, arguments, strict=True)) == {
        "subject": "user=m",
        "verdict_id": "id",
        "penalty": "ban",
        "scope": "login api/*",
        "duration_ms": "5",
        "digest": "d1",
        "keep_ms": str(KEEP_MS),
        "channel": "ratchet:changes",
        "now_ms": "",
    }


def test_clock_of_tests_is_handed_on() -> None:
    assert name_ruling_arguments(RULING, now_ms=7)[1][-1] == "7"
