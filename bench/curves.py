"""Curves over time, as SVG: panels under one another that share the axis of seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT, _HEIGHT, _TOP, _GAP = 860, 70, 20, 150, 64, 46
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-size:15px;font-weight:bold}polyline{fill:none;stroke-width:1.6}"
    ".axis{stroke:#b9c0c7}.mark{stroke:#b03030;stroke-dasharray:4 3}"
)
_COLOURS = ("#2f6f4f", "#c27b3b", "#3b6ec2", "#8a8f94")


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram.

    Attributes:
        title: What the vertical axis measures, with its unit.
        curves: Values by second, by what they are of; all panels of a drawing name the same, in the same order.
        most: Upper end of the axis; what lies above is drawn there.
        mark: A horizontal line at this value, with what it means.
    """

    title: str
    curves: Mapping[str, Sequence[float]]
    most: float
    mark: tuple[float, str] | None = None


def draw(title: str, panels: Sequence[Panel]) -> str:
    """Draw all panels, with one legend."""
    height = _TOP + len(panels) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" class="title">{escape(title)}</text>',
    ]
    for position, name in enumerate(panels[0].curves):
        x = _LEFT + position * 170
        parts.append(f'<rect x="{x}" y="36" width="14" height="4" fill="{_COLOURS[position % len(_COLOURS)]}"/>')
        parts.append(f'<text x="{x + 20}" y="43">{escape(name)}</text>')
    for number, panel in enumerate(panels):
        parts += _draw_panel(panel, _TOP + number * (_HEIGHT + _GAP) + 10)
    return "\n".join([*parts, "</svg>\n"])


def _draw_panel(panel: Panel, top: float) -> list[str]:
    seconds = max(2, *(len(values) for values in panel.curves.values()))
    width = _WIDTH - _LEFT - _RIGHT
    bottom = top + _HEIGHT

    def place(at_s: float, value: float) -> str:
        return f"{_LEFT + at_s / (seconds - 1) * width:.1f},{bottom - min(value, panel.most) / panel.most * _HEIGHT:.1f}"

    parts = [
        f'<text x="12" y="{top - 6}">{escape(panel.title)}</text>',
        f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{_WIDTH - _RIGHT}" y2="{bottom}"/>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{panel.most:g}</text>',
        f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 14}" text-anchor="end">{seconds - 1} s</text>',
    ]
    for position, values in enumerate(panel.curves.values()):
        points = " ".join(place(at_s, value) for at_s, value in enumerate(values))
        parts.append(f'<polyline points="{points}" stroke="{_COLOURS[position % len(_COLOURS)]}"/>')
    if panel.mark is not None:
        value, meaning = panel.mark
        y = place(0, value).split(",")[1]
        parts.append(f'<line class="mark" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{float(y) - 4:.1f}" text-anchor="end">{escape(meaning)}</text>')
    return parts
