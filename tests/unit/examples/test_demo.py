import typer
from rich.console import Console
from typer.testing import CliRunner

from config.document import read_document
from detector.rules import Rules
from examples import demo
from examples.findings import RULE, THRESHOLD, Finding
from examples.system import RULES


def test_table_marks_what_was_not_met() -> None:
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        console.print(demo.show_findings([Finding("a", "1", "1", True), Finding("b", "2", "3", False)]))
    good, bad = [line for line in captured.get().splitlines() if "│ " in line][-2:]
    assert "ok" in good
    assert "NOT MET" in bad


def test_against_needs_two_addresses() -> None:
    app = typer.Typer()
    app.command()(demo.main)
    result = CliRunner().invoke(app, ["--against", "127.0.0.1:50051"])
    assert result.exit_code == 2
    assert "host:port,host:port" in result.output


def test_demo_s_rule_is_the_shipped_one_on_a_ladder_of_seconds() -> None:
    ours, shipped = (read_document(path, Rules).model for path in (demo.DEMO_RULES, RULES))
    (rule,) = ours.rules
    (other,) = (one for one in shipped.rules if one.name == RULE)
    assert (rule.by, rule.match, rule.threshold, rule.window_ms, rule.ban_scope) == (
        other.by, other.match, other.threshold, other.window_ms, other.ban_scope,
    )  # fmt: skip
    assert rule.threshold == THRESHOLD
    assert ours.ladder.longest_ms <= 60_000
