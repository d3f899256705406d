from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from config.document import read_document
from detector.ladder import Finding
from detector.rules import Rules
from detector.verdict import Origin, identify_verdict, make_event, make_offence
from detector.watches import compile_watches
from detector.windows import Crossing

RULES = read_document(Path("config/rules.yaml"), Rules).model
WATCH = compile_watches(RULES)[0]
OTHER = dataclasses.replace(WATCH, rule=WATCH.rule.model_copy(update={"name": "other"}))
CROSSING = Crossing(WATCH, "user=m", count=12, denials=12, admitted=0, first_ms=5, last_ms=9, fold=2)
ORIGIN = Origin(partition=3, offset=77, source="e/0/1", n=8)


def identify(crossing: Crossing = CROSSING, origin: Origin = ORIGIN, *, version: str = "v", start: int = 3) -> str:
    return identify_verdict(crossing, origin, version=version, start=start)


def test_verdict_of_the_same_crossing_has_the_same_id_wherever_the_record_lies() -> None:
    assert identify() == identify(origin=dataclasses.replace(ORIGIN, offset=1, partition=0))
    assert len(identify()) == 32


@pytest.mark.parametrize(
    "other",
    [
        identify(msgspec.structs.replace(CROSSING, subject="user=n")),
        identify(msgspec.structs.replace(CROSSING, watch=OTHER)),
        identify(msgspec.structs.replace(CROSSING, fold=3)),
        identify(origin=dataclasses.replace(ORIGIN, n=9)),
        identify(origin=dataclasses.replace(ORIGIN, source="e/0/2")),
        identify(version="w"),
        identify(start=4),
    ],
)
def test_anything_else_has_another_id(other: str) -> None:
    assert other != identify()


def test_offence_is_what_the_rule_says_at_the_time_of_the_crossing() -> None:
    offence = make_offence(CROSSING, ORIGIN, RULES)
    assert (offence.rule, offence.scope, offence.at_ms, offence.start, offence.is_shadow) == (
        "brute_force",
        ("login",),
        9,
        3,
        False,
    )
    assert offence.verdict_id == identify(version=RULES.digest)


def test_event_tells_what_came_of_it_and_on_what_evidence() -> None:
    offence = make_offence(CROSSING, ORIGIN, RULES)
    finding = Finding(
        result="applied", penalty="ban", rung=3, level=3, score_after=1000, until_ms=60_009, rev=4, applied_at_ms=12
    )
    event = make_event(CROSSING, ORIGIN, offence, finding, RULES)
    assert (event.verdict_id, event.rule_version, event.ban_until_ms) == (offence.verdict_id, RULES.digest, 60_009)
    assert event.reason == "12 refused logins of user=m within 1m"
    assert event.evidence is not None
    assert (event.evidence.count, event.evidence.offset, event.evidence.n) == (12, 77, 8)
    unchanged = make_event(CROSSING, ORIGIN, offence, Finding(result="during_ban"), RULES)
    assert (unchanged.penalty, unchanged.ban_until_ms) == ("none", None)
