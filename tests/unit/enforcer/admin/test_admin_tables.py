from __future__ import annotations

import json
from io import StringIO

from rich.console import Console, RenderableType

from enforcer.admin.admin_tables import show_bans, show_change, show_explanation, show_overrides, write_json
from ratchet.v1.admin_pb2 import ChangeResponse, ExplainResponse, Override, Subject
from ratchet.v1.enforcer_pb2 import Ban, LimitStatus, Warning  # noqa: A004 the message's name

NOW_MS = 1_795_516_860_000


def draw(table: RenderableType) -> list[str]:
    out = StringIO()
    Console(file=out, width=160, color_system=None).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_json_has_every_field_and_integers_are_numbers() -> None:
    answer = ExplainResponse(subject=Subject(name="user=é"), score_milli=2**53, bans=[Ban(until_ms=5, scope=["*"])])
    read = json.loads(write_json(answer))
    assert read["score_milli"] == 2**53
    assert read["bans"][0] == {"until_ms": 5, "scope": ["*"], "level": 0, "rule": "", "verdict_id": "", "subject": ""}
    assert read["subject"] == {"kind": "", "value": "", "name": "user=é"}
    assert (read["warning"], read["limits"], read["policy"]) == (None, [], "")


def test_change_says_what_was_done_and_what_was_left() -> None:
    change = ChangeResponse(verdict_id="v1", rev=3, repeated_call=True, left=["login:pair"])
    assert draw(show_change(change, "user=a is forgiven")) == [
        "user=a is forgiven; it had been done before (verdict v1, rev 3)",
        "left alone, for they are not this subject's alone: login:pair",
    ]
    assert draw(show_change(ChangeResponse(verdict_id="v1", rev=3), "done")) == ["done (verdict v1, rev 3)"]


def test_explanation_shows_what_is_held_and_what_the_buckets_hold() -> None:
    answer = ExplainResponse(
        subject=Subject(name="user=alice"),
        bans=[Ban(until_ms=NOW_MS + 60_000, scope=["login"], level=3, rule="brute_force", verdict_id="v1")],
        warning=Warning(until_ms=NOW_MS + 1_000, rule="spray"),
        score_milli=1500,
        level=3,
        factor_per_mille=500,
        human_at_ms=NOW_MS,
        policy="login",
        matched_by="glob log*",
        limits=[LimitStatus(policy="login", name="per_user", remaining=2, capacity=5, reset_after_ms=36_000, shadow=True)],
        overrides=[Override(subject=Subject(name="user=alice"), policy="login", limit="per_user", capacity=9, refill="9/1m")],
        now_ms=NOW_MS,
    )
    assert draw(show_explanation(answer)) == [
        "subject                   user=alice",
        "ban                       from login until 2026-11-24 10:42:00.000Z (60 s), by rule brute_force, rung 3, verdict v1",
        "warning                   until 2026-11-24 10:41:01.000Z (1 s), rule spray",
        "strikes                   1.5, level 3",
        "factor                    0.5",
        "last decided by a person  2026-11-24 10:41:00.000Z",
        "policy                    login (glob log*)",
        "limit           holds  of  full in",
        "login:per_user  2      5   36 s     shadow",
        "subject     limit           capacity  refill  until   by  reason",
        "user=alice  login:per_user  9         9/1m    always",
    ]


def test_unknown_subject_is_told_in_three_lines() -> None:
    answer = ExplainResponse(subject=Subject(name="user=alice"), factor_per_mille=1000)
    assert draw(show_explanation(answer)) == ["subject  user=alice", "strikes  0, level 0", "factor   1"]


def test_bans_end_last_first_and_text_from_outside_cannot_steer_the_terminal() -> None:
    shown = draw(
        show_bans(
            [
                Ban(until_ms=NOW_MS + 1_000, scope=["*"], subject="user=[red]a", verdict_id="\x1b[2J"),
                Ban(until_ms=NOW_MS + 9_000, scope=["login", "api/*"], level=2, rule="r", subject="user=b", verdict_id="v"),
            ],
            NOW_MS,
        )
    )
    assert [line.split()[0] for line in shown] == ["subject", "user=b", "user=[red]a"]
    assert "\\x1b[2J" in shown[2]
    assert "everything" in shown[2]


def test_nothing_to_show_is_said() -> None:
    assert draw(show_bans([], NOW_MS)) == ["no bans in force"]
    assert draw(show_overrides([])) == ["no overrides in force"]
