from xml.etree import ElementTree as ET

from bench.plot import draw
from bench.tables import Results, Row
from tests.unit.bench.samples import make_measurement

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_figures_and_sorted() -> None:
    rows = tuple(Row(server, "a < b", (make_measurement(cpu_us),)) for server, cpu_us in [("slow", 80.0), ("ratchet", 20.0)])
    root = ET.fromstring(draw(Results("a machine", rows)))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts.index("ratchet") < texts.index("slow")
    assert "a < b" in texts
    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect")][1:]
    assert round(widths[1] / widths[0], 2) == 4.0
