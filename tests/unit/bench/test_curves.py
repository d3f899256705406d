from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.curves import Panel, draw


def test_drawing_is_xml_with_a_curve_for_each_name_and_panel() -> None:
    panels = [
        Panel("p90, ms", {"with": [1, 2, 900], "without": [5]}, 100, (50, "SLO")),
        Panel("x", {"with": [], "without": []}, 1),
    ]
    root = ET.fromstring(draw("a < b", panels))
    curves = [node.get("points") or "" for node in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(curves) == 4
    top, above = curves[0].split()[-1].split(",")[1], draw("", [Panel("", {"": [0, 0, 100]}, 100)])
    assert top in above, "what lies above the axis is drawn at its end"
