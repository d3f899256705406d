from rich.console import Console

from examples.pacing import Pace
from examples.tally import Answer, Tally, show_tally


def show(tally: Tally, pace: Pace) -> str:
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        console.print(show_tally(tally, pace))
    return captured.get()


def test_percentiles_are_nearest_rank() -> None:
    tally = Tally()
    for number in range(1, 101):
        tally.add(Answer("u", "a", "allow", "", number / 1000))
    assert (tally.percentile_ms(50), tally.percentile_ms(99), tally.percentile_ms(100)) == (50, 99, 100)


def test_percentile_of_nothing_is_zero() -> None:
    assert Tally().percentile_ms(99) == 0


def test_summary_names_who_was_limited_and_banned_and_why() -> None:
    tally = Tally()
    for answer in (
        Answer("alice", "search", "allow", "", 0.001),
        Answer("bob", "search", "deny", "search:per_user", 0.001),
        Answer("mallory", "login", "ban", "brute_force", 0.001),
        Answer("carol", "login", "error", "no decision: unavailable", 0.001),
    ):
        tally.add(answer)
    text = show(tally, Pace(sent=4, took_s=2))
    assert "4 requests in 2.0 s (2/s)" in text
    assert "limited: 1 user, 1 requests" in text
    assert "search:per_user" in text
    assert "banned: 1 user" in text
    assert "brute_force" in text
    assert "1 without a decision: no decision: unavailable" in text
    assert "alice" not in text
    assert "FELL BEHIND" not in text


def test_summary_says_that_it_fell_behind() -> None:
    assert "FELL BEHIND: 3 requests" in show(Tally(), Pace(sent=9, took_s=1, behind=3, longest_lag_s=4.2))
