"""Charts of the benchmarks: honest axes, misses as they are, and a caption that says where and when."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import charts, report
from benchmarks.charts import Bar, Chart, Group, svg, ticks_to
from benchmarks.report import Row, versus

RUN = {
    "date": "2026-11-23 10:00 UTC",
    "command": "python -m benchmarks",
    "quick": False,
    "seconds": 12.3,
    "load_before": [0.1, 0.2, 0.3],
    "load_after": [1.1, 0.2, 0.3],
    "machine": {"processor": "one", "cores": 2, "memory_gib": 4.0, "kernel": "Linux 6", "python": "3.11.9"},
}
SVG = "{http://www.w3.org/2000/svg}"


def drawn(name: str, rows: list[Row], section: str, folder: Path) -> ET.Element:
    sections: dict[str, Any] = {section: report.section(section, RUN, rows)}
    paths = {path.stem: path for path in charts.draw(sections, folder)}
    return ET.fromstring(paths[name].read_text())


def texts(picture: ET.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


@pytest.mark.parametrize("longest", [0.97, 1.0, 3.0, 37.5, 1234.0])
def test_ticks_begin_at_zero_and_reach_the_longest_bar(longest: float) -> None:
    ticks = ticks_to(longest)
    assert ticks[0] == 0
    assert ticks[-1] >= longest * 0.999
    assert 3 <= len(ticks) <= 7


def test_bars_are_as_long_as_their_values_say() -> None:
    chart = Chart("t", "a", [Group("g", [Bar("one", 10.0, "10"), Bar("two", 20.0, "20"), Bar("none", 0.0, "0")])])
    widths = [float(bar.attrib["width"]) for bar in ET.fromstring(svg(chart, [])).iter(f"{SVG}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert widths[2] == 0


def test_a_miss_is_drawn_beside_its_goal_and_says_so(tmp_path: Path) -> None:
    rows = [Row("worker, 1 MP", 31.0, "photos/s", "ceiling", 37.0, 0.84, at_least=0.95)]
    picture = drawn("ceiling", rows, "pipeline", tmp_path)
    assert "0.84 (missed)" in texts(picture)
    (goal,) = [line for line in picture.iter(f"{SVG}line") if line.attrib["class"] == "target"]
    (bar,) = picture.iter(f"{SVG}rect")
    assert float(goal.attrib["x1"]) > float(bar.attrib["x"]) + float(bar.attrib["width"])


def test_the_caption_names_machine_date_and_load(tmp_path: Path) -> None:
    rows = [versus("against BentoML, 8 clients", 20.0, "photos/s", "BentoML, photos/s", 25.0, at_least=1.0)]
    said = texts(drawn("peers", rows, "peers", tmp_path))
    assert "one, 2 cores, 4.0 GiB, Python 3.11.9" in said
    assert "peers: 2026-11-23 10:00 UTC, load 0.1 before and 1.1 after" in said
    assert {"BentoML", "PoxVisio", "20", "25"} <= set(said)


def test_a_peer_that_was_left_out_is_not_drawn_as_nothing(tmp_path: Path) -> None:
    rows = [
        Row("against Ray Serve", None, "", "left out", note="it could not be installed: no such version"),
        Row("against BentoML, photos without an answer, killed once", 0.0, "of 90", "BentoML, of 88", 8.0),
    ]
    said = texts(drawn("killed", rows, "peers", tmp_path))
    assert "8 of 88" in said
    assert not [text for text in said if "Ray" in text]


def test_the_charts_of_the_readme_are_those_of_the_kept_figures() -> None:
    sections = {item["name"]: item for item in report.load(charts.RESULTS)}
    for name, (needed, chart_of) in charts._CHARTS.items():
        found = [sections[section] for section in needed if section in sections]
        if found:
            chart = chart_of([row for section in found for row in report.read_rows(section)])
            assert (charts.CHARTS / f"{name}.svg").read_text() == svg(chart, charts.caption(found)), (
                f"{name}.svg is old: python -m benchmarks.charts"
            )
    shown = re.findall(r"docs/charts/(\w+)\.svg", (charts.HERE.parent / "README.md").read_text())
    assert sorted(shown) == sorted(path.stem for path in charts.CHARTS.glob("*.svg"))
