"""A verdict is taken apart: its records, its counts, its score, and one record earlier."""

from __future__ import annotations

import pytest

from detector.backtest import Backtest
from detector.explanation import explain, list_proofs, say_explanation
from tests.unit.detector.test_backtest import RULES, feed
from tests.unit.detector.test_refolding import T0
from topics.wire import Fold


def make_fold(count: int, at_ms: int, subject: str = "user=mallory") -> Fold:
    return Fold(subject, "login", "login", "per_user", count, at_ms, at_ms)


def test_a_verdict_rests_on_the_records_of_its_window() -> None:
    backtest = Backtest(RULES)
    feed(backtest, 1, 7, T0)
    feed(backtest, 2, 4, T0 + 1_000)
    [verdict] = backtest.bans
    folds = {1: [make_fold(7, T0), make_fold(9, T0, "user=alice")], 2: [make_fold(4, T0 + 1_000)]}
    proofs = [proof for offset, each in folds.items() for proof in list_proofs(verdict, offset, each)]
    found = explain(verdict, proofs)
    assert [(proof.offset, proof.count) for proof in found.proofs] == [(1, 7), (2, 4)]
    assert (found.counted, found.threshold, found.one_event_earlier, found.is_complete) == (11, 10, 7, True)
    text = "\n".join(say_explanation(found))
    assert "one record earlier: 7 of 10, 3 short: no offence" in text
    assert "score: 0.000 strikes were left, 1.000 afterwards; rung 3" in text
    assert "denials/0/2" in text


def test_records_that_retention_took_are_said_to_be_gone() -> None:
    backtest = Backtest(RULES)
    feed(backtest, 1, 10)
    found = explain(backtest.bans[0], [])
    assert (found.is_complete, found.one_event_earlier) == (False, None)
    assert any("retention has taken" in line for line in say_explanation(found))


def test_a_persons_verdict_rests_on_no_count() -> None:
    backtest = Backtest(RULES)
    feed(backtest, 1, 10)
    human = backtest.bans[0].model_copy(update={"evidence": None, "actor": "carol", "reason": "asked"})
    with pytest.raises(ValueError, match="imposed by carol: asked"):
        explain(human, [])
