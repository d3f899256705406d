"""What a run of requests came to, counted and shown. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Group
from rich.table import Table

from examples.pacing import Pace

Outcome = Literal["allow", "deny", "ban", "open", "error"]
"""``open``: served without a decision. ``error``: no usable answer at all."""
OUTCOMES: tuple[Outcome, ...] = ("allow", "deny", "ban", "open", "error")
TOP = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to.

    Attributes:
        who: The user, or whatever else the table shall list.
        action: What was asked for.
        outcome: The enforcer's decision, or why there was none.
        why: ``policy:limit`` of a denial, ``rule`` of a ban, the failure of an error; empty when allowed.
        took_s: Seconds until the answer.
        degraded: The decision was made without Redis.
    """

    who: str
    action: str
    outcome: Outcome
    why: str
    took_s: float
    degraded: bool = False


@dataclass(slots=True)
class Tally:
    """Counts of answers. Memory grows with the distinct refused subjects and by 8 bytes an answer."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    actions: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    refused: Counter[tuple[Outcome, str, str, str]] = field(default_factory=Counter)
    """By outcome, who, action and why."""
    failures: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    took_s: array[float] = field(default_factory=lambda: array("d"))

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.outcomes[answer.outcome] += 1
        self.actions[answer.action, answer.outcome] += 1
        self.degraded += answer.degraded
        if answer.outcome in ("deny", "ban"):
            self.refused[answer.outcome, answer.who, answer.action, answer.why] += 1
        elif answer.outcome in ("open", "error"):
            self.failures[answer.why] += 1
        self.took_s.append(answer.took_s)

    def total(self) -> int:
        """How many answers were counted."""
        return len(self.took_s)

    def percentile_ms(self, percent: float) -> float:
        """Milliseconds that ``percent`` of the answers took at most (nearest rank); 0 when there was none."""
        if not self.took_s:
            return 0.0
        ordered = sorted(self.took_s)
        rank = max(1, -(-len(ordered) * percent // 100))
        return ordered[int(rank) - 1] * 1000


def show_tally(tally: Tally, pace: Pace) -> Group:
    """Lay a tally out as tables: by outcome, by action, who was limited and banned and why."""
    rate = pace.sent / pace.took_s if pace.took_s else 0.0
    latency = f"answered p50 {tally.percentile_ms(50):.1f} ms, p99 {tally.percentile_ms(99):.1f} ms"
    lines = [f"{pace.sent:,} requests in {pace.took_s:.1f} s ({rate:,.0f}/s), {latency}"]
    if pace.behind:
        lines.append(
            f"FELL BEHIND: {pace.behind:,} requests started late, the latest by {pace.longest_lag_s:.1f} s; "
            "take a lower --speed or a higher --concurrency"
        )
    if tally.degraded:
        lines.append(f"{tally.degraded:,} were decided without Redis")
    lines += [f"{number:,} without a decision: {why}" for why, number in tally.failures.most_common(TOP)]
    parts: list[Table | str] = ["\n".join(lines), _show_actions(tally)]
    for outcome, title in (("deny", "limited"), ("ban", "banned")):
        rows = Counter({key[1:]: number for key, number in tally.refused.items() if key[0] == outcome})
        if rows:
            parts.append(_show_refused(title, rows))
    return Group(*parts)


def _show_actions(tally: Tally) -> Table:
    table = Table(title="by action", title_justify="left")
    table.add_column("action")
    for outcome in OUTCOMES:
        table.add_column(outcome, justify="right")
    totals = Counter({action: 0 for action, _ in tally.actions})
    for (action, _), number in tally.actions.items():
        totals[action] += number
    for action, _ in totals.most_common(TOP):
        table.add_row(action, *(f"{tally.actions[action, outcome]:,}" for outcome in OUTCOMES))
    if len(totals) > TOP:
        table.add_row(f"and {len(totals) - TOP} more", *("" for _ in OUTCOMES))
    table.add_row("all", *(f"{tally.outcomes[outcome]:,}" for outcome in OUTCOMES), style="bold")
    return table


def _show_refused(title: str, rows: Counter[tuple[str, str, str]]) -> Table:
    who = len({row[0] for row in rows})
    table = Table(title=f"{title}: {who:,} {'user' if who == 1 else 'users'}, {rows.total():,} requests", title_justify="left")
    for column in ("user", "action", "why"):
        table.add_column(column)
    table.add_column("requests", justify="right")
    for (user, action, why), number in rows.most_common(TOP):
        table.add_row(user[:60], action, why, f"{number:,}")
    return table
