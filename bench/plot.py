"""A bar chart of results, as SVG: one group of bars for a scenario, one bar for a server."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from bench.tables import Results, Row, write_number

_WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TOP = 860, 210, 70, 18, 26, 48
_COLOURS = {"ratchet": "#2f6f4f", "empty": "#b9c0c7"}
_OTHER = "#c27b3b"


def draw(results: Results) -> str:
    """Draw the server's CPU per decision, medians; empty handlers are grey, peers brown.

    Rows whose median is missing do not occur: every run measures the server.
    """
    scenarios = list(dict.fromkeys(row.scenario for row in results.rows))
    longest = max((_cpu_us(row) for row in results.rows), default=1.0)
    parts, y = [], _TOP
    for scenario in scenarios:
        parts.append(f'<text x="12" y="{y + 13}" class="group">{escape(scenario)}</text>')
        y += 20
        for row in sorted((row for row in results.rows if row.scenario == scenario), key=_cpu_us):
            parts.extend(_draw_bar(row, y, longest))
            y += _BAR + 4
        y += _GAP - 4
    style = "text{font:12px sans-serif;fill:#333}.group{font-weight:bold}.title{font-size:15px;font-weight:bold}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img">',
            f"<style>{style}</style>",
            f'<rect width="{_WIDTH}" height="{y}" fill="#fff"/>',
            '<text x="12" y="24" class="title">Server CPU per decision, µs (less is better)</text>',
            f'<text x="12" y="40">{escape(results.machine)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def _draw_bar(row: Row, y: int, longest: float) -> Iterator[str]:
    cpu_us = _cpu_us(row)
    width = max(1.0, cpu_us / longest * (_WIDTH - _LEFT - _RIGHT))
    colour = _COLOURS.get(row.server.split(",")[0].split(" ")[0], _OTHER)
    yield f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(row.server)}</text>'
    yield f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
    yield f'<text x="{_LEFT + width + 6:.1f}" y="{y + 13}">{write_number(cpu_us, 1)}</text>'


def _cpu_us(row: Row) -> float:
    return row.median(lambda one: one.server_cpu_us) or 0.0
