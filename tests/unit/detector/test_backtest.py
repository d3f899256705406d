"""Rules over history: the same verdicts as live, and what a person needs to judge them."""

from __future__ import annotations

from pathlib import Path

from config.document import read_document
from detector.backtest import Backtest, is_ban
from detector.rules import Rules
from tests.unit.detector.test_refolding import T0, decide
from topics.wire import Fold, FoldsEvent, HeartbeatEvent

RULES = read_document(Path("config/rules.yaml"), Rules).model


def feed(backtest: Backtest, n: int, count: int, at_ms: int = T0, *, subject: str = "user=mallory", admitted: int = 0) -> None:
    fold = Fold(subject, "login", "login", "per_user", count, at_ms, at_ms, admitted)
    backtest.feed(0, n, FoldsEvent("a/0/1", n, at_ms, [fold]), taken_ms=at_ms)


def test_ten_refusals_within_a_minute_ban_and_nine_do_not() -> None:
    backtest = Backtest(RULES)
    feed(backtest, 1, 10)
    feed(backtest, 2, 9, subject="user=alice")
    backtest.finish()
    [verdict] = backtest.bans
    assert (verdict.subject, verdict.rule, verdict.ban_until_ms) == ("user=mallory", "brute_force", T0 + 60_000)
    report = backtest.rules["brute_force"]
    assert (report.offences, report.penalties["ban"], report.banned_subjects, report.denials) == (1, 1, 1, 19)


def test_the_ladder_goes_on_from_offence_to_offence() -> None:
    backtest = Backtest(RULES)
    for n, at_ms in enumerate((T0, T0 + 30_000, T0 + 61_000), 1):
        feed(backtest, n, 10, at_ms)
    assert [verdict.result for verdict in backtest.verdicts] == ["applied", "during_ban", "applied"]
    assert [verdict.rung for verdict in backtest.bans] == [3, 4]


def test_record_that_is_read_twice_counts_once() -> None:
    backtest = Backtest(RULES)
    for offset in (1, 2):
        fold = Fold("user=a", "login", "login", "per_user", 5, T0, T0)
        backtest.feed(0, offset, FoldsEvent("a/0/1", 1, T0, [fold]), taken_ms=T0)
    backtest.feed(0, 3, HeartbeatEvent("a/0/1", 1, T0), taken_ms=T0)
    assert backtest.verdicts == []


def test_what_was_before_fills_windows_and_is_not_reported() -> None:
    backtest = Backtest(RULES, first_ms=T0 + 10)
    feed(backtest, 1, 9, T0)
    feed(backtest, 2, 10, T0, subject="user=early")
    feed(backtest, 3, 1, T0 + 10)
    assert [verdict.subject for verdict in backtest.verdicts] == ["user=mallory"]


def test_most_doubtful_is_who_passed_often_or_stands_for_many() -> None:
    backtest = Backtest(RULES)
    feed(backtest, 1, 10, subject="user=attacker")
    feed(backtest, 2, 10, subject="user=clumsy", admitted=30)
    doubts = backtest.list_doubts()
    assert [(doubt.subject, doubt.admitted_share, doubt.users) for doubt in doubts] == [
        ("user=clumsy", 0.75, 1),
        ("user=attacker", 0.0, 1),
    ]


def test_difference_tells_the_same_from_the_new_and_the_spared() -> None:
    live, candidate = Backtest(RULES), Backtest(RULES)
    for backtest, subjects in ((live, ("user=both", "user=spared")), (candidate, ("user=both", "user=new"))):
        for n, subject in enumerate(subjects, 1):
            feed(backtest, n, 10, subject=subject)
    moved = [verdict.model_copy(update={"verdict_id": f"{n:032x}"}) for n, verdict in enumerate(live.verdicts)]
    difference = candidate.compare(live.verdicts)
    assert (difference.same_ids, difference.same) == (1, 1)
    assert [verdict.subject for verdict in difference.only_candidate] == ["user=new"]
    assert [verdict.subject for verdict in difference.only_live] == ["user=spared"]
    assert difference.versions == {RULES.digest: 2}
    again = candidate.compare(moved)
    assert (again.same_ids, again.same) == (0, 1), "the same offence within a second has another id where it was folded again"


def test_share_of_history_that_bans_censored_is_told_by_rule() -> None:
    backtest = Backtest(RULES)
    for seq in range(3):
        backtest.count(decide(T0 + seq))
    backtest.count(decide(outcome="ban", reason="banned", limits=()))
    backtest.count(decide(outcome="ban", reason="banned", limits=(), action="search"))
    backtest.finish()
    report = backtest.rules["brute_force"]
    assert (report.checks, report.censored, report.censored_share) == (4, 1, 0.25)


def test_shadow_verdict_is_no_ban() -> None:
    shadow = RULES.model_copy(update={"rules": tuple(rule.model_copy(update={"mode": "shadow"}) for rule in RULES.rules)})
    backtest = Backtest(shadow)
    feed(backtest, 1, 10)
    assert [is_ban(verdict) for verdict in backtest.verdicts] == [False]
    assert backtest.rules["brute_force"].results == {"shadow": 1}
