from __future__ import annotations

from pathlib import Path

from config.document import read_document
from detector.abuse_store import name_arguments
from detector.ladder import Offence
from detector.rules import Rules
from lua.scripts import APPLY_VERDICT

LADDER = read_document(Path("config/rules.yaml"), Rules).model.ladder
OFFENCE = Offence("id", "user=m", "brute_force", ("login", "api/*"), 5, 3, is_shadow=True)


def test_arguments_stand_where_the_script_declares_them() -> None:
    keys, arguments = name_arguments(OFFENCE, LADDER, keep_ms=7)
    named = dict(zip(APPLY_VERDICT.argv, arguments, strict=False))
    assert dict(zip(APPLY_VERDICT.keys, keys, strict=True)) == {"abuse": "abuse:{user=m}", "verdict": "verdict:{user=m}:id"}
    assert (named["scope"], named["at_ms"], named["start"], named["mode"], named["keep_ms"], named["now_ms"]) == (
        "login api/*", "5", "3", "shadow", "7", ""
    )  # fmt: skip
    rungs = arguments[len(APPLY_VERDICT.argv) - 1 :]
    assert rungs[:6] == ["warn", "600000", "1000", "tighten", "600000", "500"]
    assert len(rungs) == 3 * len(LADDER.rungs)
