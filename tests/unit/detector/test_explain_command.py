"""The verdict that is asked for is found, or it is said that there is none."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from detector.__main__ import app
from detector.backtest import Backtest
from detector.explain_command import choose_verdict
from tests.unit.detector.test_backtest import RULES, feed


def test_verdict_is_found_by_id_or_as_the_subjects_last() -> None:
    backtest = Backtest(RULES)
    feed(backtest, 1, 10)
    feed(backtest, 2, 10)
    first, last = backtest.verdicts
    assert choose_verdict(backtest.verdicts, first.verdict_id, "") == first
    assert choose_verdict(backtest.verdicts, "", "user=mallory") == last
    with pytest.raises(ValueError, match="no rule's verdict about user=alice in topic verdicts"):
        choose_verdict(backtest.verdicts, "", "user=alice")


def test_bad_calls_are_said() -> None:
    assert CliRunner().invoke(app, ["explain"]).exit_code == 2
    away = CliRunner().invoke(app, ["explain", "0b8f", "--kafka", "127.0.0.1:1"])
    assert away.exit_code == 3
    assert "127.0.0.1:1" in away.output
