"""What the admin command line prints: JSON for programs, tables and lines for people. Pure.

What comes from outside never reaches a terminal raw: characters that do not print are escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ratchet.v1 import admin_pb2, enforcer_pb2
from topics.lines import clean, format_span, format_time


def write_json(message: Message) -> str:
    """Write a message as JSON with all of its fields, by their names in the proto; integers stay numbers."""
    return json.dumps(_to_object(message), ensure_ascii=False, indent=2)


def _to_object(message: Message) -> dict[str, Any]:
    return {field.name: _read_field(message, field) for field in message.DESCRIPTOR.fields}


def _read_field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_to_object(entry) if isinstance(entry, Message) else entry for entry in value]
    if isinstance(value, Message):
        return _to_object(value) if message.HasField(field.name) else None
    return value


def show_change(change: admin_pb2.ChangeResponse, done: str) -> RenderableType:
    """Say what was done."""
    said = f"{done}; it had been done before" if change.repeated_call else done
    lines = [Text(f"{said} (verdict {clean(change.verdict_id)}, rev {change.rev})")]
    if change.left:
        left = ", ".join(map(clean, change.left))
        lines.append(Text(f"left alone, for they are not this subject's alone: {left}", "yellow"))
    return Group(*lines)


def show_explanation(answer: admin_pb2.ExplainResponse) -> RenderableType:
    """Show all that is known of a subject."""
    now_ms = answer.now_ms
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()

    def add(name: str, text: str, style: str = "") -> None:
        facts.add_row(name, Text(text, style))

    add("subject", clean(answer.subject.name), "bold")
    for ban in answer.bans:
        add("ban", _say_ban(ban, now_ms), "bold red")
    if answer.HasField("warning"):
        warning = answer.warning
        add("warning", f"until {_say_end(warning.until_ms, now_ms)}, rule {clean(warning.rule)}", "yellow")
    add("strikes", f"{answer.score_milli / 1000:g}, level {answer.level}")
    add("factor", f"{answer.factor_per_mille / 1000:g}", "yellow" if answer.factor_per_mille < 1000 else "")
    if answer.human_at_ms:
        add("last decided by a person", format_time(answer.human_at_ms))
    if answer.policy:
        add("policy", f"{clean(answer.policy)} ({clean(answer.matched_by)})")
    parts: list[RenderableType] = [facts]
    if answer.limits:
        parts.append(_show_limits(answer.limits))
    if answer.overrides:
        parts.append(show_overrides(answer.overrides))
    return Group(*parts)


def _show_limits(limits: Iterable[enforcer_pb2.LimitStatus]) -> Table:
    table = _make_table("limit", "holds", "of", "full in", "")
    for limit in limits:
        _add_row(
            table,
            f"{limit.policy}:{limit.name}",
            str(limit.remaining),
            str(limit.capacity),
            format_span(limit.reset_after_ms),
            "shadow" if limit.shadow else "",
        )
    return table


def show_bans(bans: Iterable[enforcer_pb2.Ban], now_ms: int) -> RenderableType:
    """Show bans, the one that ends last first.

    Args:
        bans: In any order.
        now_ms: The reader's clock.
    """
    table = _make_table("subject", "until", "left", "actions", "by", "verdict")
    for ban in sorted(bans, key=lambda ban: (-ban.until_ms, ban.subject)):
        left = format_span(max(0, ban.until_ms - now_ms))
        _add_row(
            table, clean(ban.subject), format_time(ban.until_ms), left, _say_scope(ban), _say_author(ban), clean(ban.verdict_id)
        )
    return table if table.row_count else Text("no bans in force")


def show_overrides(overrides: Iterable[admin_pb2.Override]) -> RenderableType:
    """Show overrides in the order given."""
    table = _make_table("subject", "limit", "capacity", "refill", "until", "by", "reason")
    for override in overrides:
        _add_row(
            table,
            clean(override.subject.name),
            f"{clean(override.policy)}:{clean(override.limit)}",
            str(override.capacity),
            clean(override.refill),
            format_time(override.until_ms) if override.until_ms else "always",
            clean(override.actor),
            clean(override.reason),
        )
    return table if table.row_count else Text("no overrides in force")


def _make_table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))  # bare strings would be read as markup


def _say_ban(ban: enforcer_pb2.Ban, now_ms: int) -> str:
    end = _say_end(ban.until_ms, now_ms)
    return f"from {_say_scope(ban)} until {end}, by {_say_author(ban)}, verdict {clean(ban.verdict_id)}"


def _say_scope(ban: enforcer_pb2.Ban) -> str:
    return "everything" if "*" in ban.scope else ", ".join(map(clean, ban.scope))


def _say_author(ban: enforcer_pb2.Ban) -> str:
    return f"rule {clean(ban.rule)}, rung {ban.level}" if ban.rule else "a person"


def _say_end(until_ms: int, now_ms: int) -> str:
    return f"{format_time(until_ms)} ({format_span(max(0, until_ms - now_ms))})"
