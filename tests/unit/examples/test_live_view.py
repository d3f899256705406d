from pathlib import Path

from rich.console import Console, RenderableType

from devstack.process import ServiceState
from examples.live_view import name_commands, show_everything, show_line
from examples.observed import Observed
from examples.system import SystemAddresses
from tests.unit.examples.test_observed import decision
from topics.events import AbuseState, Ban

ADDRESSES = SystemAddresses(
    enforcers=("127.0.0.1:1", "127.0.0.1:2"), envoy="127.0.0.1:3", redis_url="redis://127.0.0.1:4/0", kafka="127.0.0.1:5",
    backend="http://127.0.0.1:6", metrics=(("detector", "http://127.0.0.1:7/metrics"),),
)  # fmt: skip
STATES = (
    ServiceState(name="redis", status="ready", log=Path("redis.log"), ready_after_s=0.05),
    ServiceState(name="detector", status="exited", log=Path("detector.log"), restarts=2),
)


def render(shown: RenderableType) -> str:
    console = Console(width=160, no_color=True)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def observe() -> Observed:
    seen = Observed()
    seen.note([decision("alice"), decision("[bold]mallory", "ban", ip="203.0.113.7")])
    ban = Ban(until_ms=125_000, level=2, rule="brute_force", verdict_id="v", scope=("login",))
    seen.note_abuse([("user=mallory", AbuseState(rev=1, offences=2, bans=(ban,)))], now_ms=1_000)
    return seen


def test_view_shows_users_bans_with_countdown_parts_and_commands() -> None:
    text = render(show_everything(observe(), STATES, ADDRESSES, now_ms=1_000, up_s=61, rows=50))
    for part in (
        "up 1:01",
        "[bold]mallory",
        "203.0.113.7",
        "user=mallory",
        "2:04",
        "brute_force",
        "exited",
        "127.0.0.1:7/metrics",
    ):
        assert part in text, part
    for command in name_commands(ADDRESSES):
        assert command in text


def test_view_of_nothing_is_a_view_too() -> None:
    text = render(show_everything(Observed(), (), ADDRESSES, now_ms=0, up_s=0, rows=24))
    assert "nobody" in text


def test_view_of_many_users_fits_the_terminal() -> None:
    seen = Observed()
    seen.note(decision(f"user-{number}") for number in range(100))
    for rows in (32, 50):
        text = render(show_everything(seen, STATES * 4, ADDRESSES, now_ms=0, up_s=0, rows=rows))
        assert len(text.splitlines()) <= rows
        assert "100 seen" in text


def test_line_says_rates_outcomes_bans_and_restarts() -> None:
    line = show_line(observe(), STATES, now_ms=1_000, up_s=5)
    assert "allow 1 deny 0 ban 1" in line
    assert "user=mallory 2:04 (brute_force)" in line
    assert "parts 1/2 ready, 2 restarts" in line
    assert "\n" not in line


def test_commands_name_the_addresses_of_this_system() -> None:
    commands = "\n".join(name_commands(ADDRESSES))
    for address in ("http://127.0.0.1:6/search", "127.0.0.1:3 ratchet.v1.Enforcer/Check", "--bootstrap 127.0.0.1:5"):
        assert address in commands
