"""Lays out what was observed: tables for a terminal, lines for a log. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from devstack.process import ServiceState
from examples.observed import Observed
from examples.system import SystemAddresses

SHOWN_BANS = 6
OTHER_ROWS = 26
"""Rows of a terminal that everything but the users takes."""
FEWEST_USERS = 3
_COLOURS = {"allow": "green", "deny": "yellow", "ban": "red", "ready": "green", "exited": "red", "starting": "yellow"}


def name_commands(addresses: SystemAddresses) -> list[str]:
    """Return commands to try against a running system, each a line to copy."""
    kafka = f"--bootstrap {addresses.kafka}"
    commands = [
        f'grpcurl -plaintext -d \'{{"user_id":"me","action":"login"}}\' {addresses.envoy} ratchet.v1.Enforcer/Check',
        f".venv/bin/python -m topics tail decisions --outcome deny {kafka}",
        f".venv/bin/python -m topics tail verdicts {kafka}",
        f".venv/bin/python -m topics audit decisions {kafka}",
    ]
    if addresses.backend:
        commands.insert(0, f"curl -i -H 'x-user: me' '{addresses.backend}/search?q=tea'")
    return commands


def show_everything(
    seen: Observed, states: Sequence[ServiceState], addresses: SystemAddresses, *, now_ms: int, up_s: float, rows: int
) -> Group:
    """Lay out the whole view.

    Args:
        seen: What was observed.
        states: The parts.
        addresses: Where they are.
        now_ms: For the countdowns; the clock that bans are counted on.
        up_s: Seconds since everything was ready.
        rows: Height of the terminal.
    """
    return Group(
        _head(seen, up_s),
        _show_users(seen, max(FEWEST_USERS, rows - OTHER_ROWS)),
        _show_bans(seen, now_ms),
        _show_parts(states, addresses),
        Text("to try, in another shell (Ctrl-C here or `make stop` there ends everything):", style="bold"),
        *(Text(f"  {command}", overflow="fold") for command in name_commands(addresses)),
    )


def show_line(seen: Observed, states: Sequence[ServiceState], *, now_ms: int, up_s: float) -> str:
    """Say the essence in one line."""
    outcomes = " ".join(f"{outcome} {seen.outcomes[outcome]:,}" for outcome in ("allow", "deny", "ban"))
    bans = ", ".join(f"{ban.subject} {_count_down(ban.until_ms - now_ms)} ({ban.rule})" for ban in seen.bans[:SHOWN_BANS])
    ready = sum(state.status == "ready" for state in states)
    restarts = sum(state.restarts for state in states)
    line = (
        f"{up_s:5.0f} s  {seen.rate_per_s():5.1f}/s  {outcomes}  banned: {bans or 'nobody'}  parts {ready}/{len(states)} ready"
    )
    return line + (f", {restarts} restarts" if restarts else "")


def _head(seen: Observed, up_s: float) -> Text:
    text = Text("Ratchet", style="bold")
    text.append(f"  up {_count_down(round(up_s * 1000))}  {seen.rate_per_s():.1f} decisions/s  ", style="not bold")
    for outcome in ("allow", "deny", "ban"):
        text.append(f"{outcome} {seen.outcomes[outcome]:,}  ", style=_COLOURS[outcome])
    text.append("  ".join(f"{name} {number:,}" for name, number in sorted(seen.decided_by.items())), style="not bold dim")
    if seen.degraded:
        text.append(f"  without Redis {seen.degraded:,}", style="red")
    return text


def _show_users(seen: Observed, most: int) -> Table:
    table = _table(f"users ({len(seen.users):,} seen)")
    table.add_column("user", no_wrap=True)
    table.add_column("from", no_wrap=True)
    for outcome in ("allow", "deny", "ban"):
        table.add_column(outcome, justify="right")
    table.add_column("last", no_wrap=True)
    table.add_column("why refused")
    for name, user in seen.most_refused(most):
        numbers = [f"{user.outcomes[outcome]:,}" for outcome in ("allow", "deny", "ban")]
        last = Text(f"{user.action} {user.outcome}", style=_COLOURS.get(user.outcome, ""))
        table.add_row(Text(name[:40]), Text(", ".join(user.ips)[:40]), *numbers, last, Text(user.why))
    return table


def _show_bans(seen: Observed, now_ms: int) -> Table:
    table = _table("bans in force (from the abuse keys)")
    for column in ("subject", "ends in", "rule", "actions", "rung", "offences"):
        table.add_column(column)
    for ban in seen.bans[:SHOWN_BANS]:
        left = Text(_count_down(ban.until_ms - now_ms), style="red")
        table.add_row(Text(ban.subject), left, ban.rule, ", ".join(ban.scope), str(ban.level), str(ban.offences))
    if len(seen.bans) > SHOWN_BANS:
        table.add_row(f"and {len(seen.bans) - SHOWN_BANS} more", "", "", "", "", "")
    if not seen.bans:
        table.add_row("nobody", "", "", "", "", "", style="dim")
    return table


def _show_parts(states: Sequence[ServiceState], addresses: SystemAddresses) -> Table:
    where = {
        "redis": addresses.redis_url,
        "kafka": addresses.kafka,
        "envoy": addresses.envoy,
        "enforcer-1": addresses.enforcers[0],
        "enforcer-2": addresses.enforcers[1],
        "backend": addresses.backend,
    }
    metrics = dict(addresses.metrics)
    table = _table("parts")
    for column in ("part", "state", "ready after", "restarts", "address", "log"):
        table.add_column(column)
    for state in states:
        after = "" if state.ready_after_s is None else f"{state.ready_after_s:.2f} s"
        status = Text(state.status, style=_COLOURS.get(state.status, ""))
        address = where.get(state.name) or metrics.get(state.name, "")
        table.add_row(state.name, status, after, str(state.restarts or ""), address, Text(str(state.log), overflow="fold"))
    return table


def _table(title: str) -> Table:
    """A table that spends no row on lines: all of it has to fit a terminal."""
    return Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, expand=True, pad_edge=False
    )


def _count_down(left_ms: int) -> str:
    seconds = max(0, -(-left_ms // 1000))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes}:{seconds:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
