"""Charts of the kept figures, as SVG for the README: ``python -m benchmarks.charts`` draws ``results.json`` anew.

Every axis begins at zero, a figure that misses its target is drawn like any other, and the caption says on what machine
and when it was measured and how busy that machine was. Colours follow the reader's light or dark page.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import Row, load, number, read_rows

HERE = Path(__file__).resolve().parent
RESULTS, CHARTS = HERE / "results.json", HERE.parent / "docs" / "charts"

_WIDTH, _LEFT, _RIGHT = 760, 268, 92
_BAR, _GAP, _GROUP = 20, 6, 30
_TOP, _FOOT = 64, 66
_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; } .small { font-size: 11px; fill: #59636e; } .group { font-weight: 600; }
.ours { fill: #0969da; } .other { fill: #9aa4ae; } .grid { stroke: #d1d9e0; }
.target { stroke: #bc4c00; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .small { fill: #9198a1; }
.ours { fill: #4493f8; } .other { fill: #6e7681; } .grid { stroke: #3d444d; } .target { stroke: #f0883e; }
}
"""


@dataclass(frozen=True)
class Bar:
    """One bar; ``target`` is where its goal stands on the same axis."""

    label: str
    value: float
    text: str
    is_ours: bool = True
    target: float | None = None


@dataclass(frozen=True)
class Group:
    """Bars that are compared with each other."""

    label: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Chart:
    """A chart; ``axis`` says what its lengths mean."""

    title: str
    axis: str
    groups: Sequence[Group]


def main() -> int:
    """Draw every chart that the kept results have the figures for."""
    sections = {item["name"]: item for item in load(RESULTS)}
    for path in draw(sections, CHARTS):
        print(path.name)
    return 0


def draw(sections: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write the charts whose benchmarks were measured, and return their files."""
    made = []
    for name, (needed, chart_of) in _CHARTS.items():
        found = [sections[section] for section in needed if section in sections]
        if not found:
            continue
        chart = chart_of([row for section in found for row in read_rows(section)])
        if any(group.bars for group in chart.groups):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.svg"
            path.write_text(svg(chart, caption(found)), encoding="utf-8")
            made.append(path)
    return made


def caption(sections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the figures were measured on, and when; one line for the machine, one for each run."""
    machine = sections[0]["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}"
    runs = [
        f"{item['name']}: {item['date']}, load {item['load_before'][0]} before and {item['load_after'][0]} after"
        for item in sections
    ]
    return [where, "; ".join(runs)]


def svg(chart: Chart, lines: Sequence[str]) -> str:
    """Return the chart as a picture that needs nothing else; horizontal bars on one axis from zero."""
    longest = max(max(bar.value, bar.target or 0.0) for group in chart.groups for bar in group.bars)
    ticks = ticks_to(longest)
    scale = (_WIDTH - _LEFT - _RIGHT) / ticks[-1]
    parts, y = [], float(_TOP)
    for group in chart.groups:
        if group.label:
            parts.append(_text(12, y + 14, group.label, "group"))
            y += 22
        for bar in group.bars:
            parts += _bar(bar, y, scale)
            y += _BAR + _GAP
        y += _GROUP - _GAP
    bottom = y - _GROUP + 2 * _GAP
    height = bottom + _FOOT
    axis = [_tick(_LEFT + tick * scale, bottom, number(tick) if tick else "0") for tick in ticks]
    said = f"{chart.title}. " + "; ".join(
        f"{group.label} {bar.label}: {bar.text}".strip() for group in chart.groups for bar in group.bars
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" role="img">'
        f"<title>{escape(said)}</title><style>{_STYLE}</style>"
    )
    foot = [_text(12, bottom + 36 + 15 * place, line, "small") for place, line in enumerate(lines)]
    body = [_text(12, 26, chart.title, "title"), _text(12, 46, chart.axis, "small"), *axis, *parts, *foot]
    return "\n".join([head, *body, "</svg>"]) + "\n"


def ticks_to(longest: float) -> list[float]:
    """Return four to six round steps from zero to at least this value."""
    if longest <= 0:
        return [0.0, 1.0]
    rough = longest / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [step * place for place in range(math.ceil(longest / step - 1e-9) + 1)]


def _bar(bar: Bar, y: float, scale: float) -> list[str]:
    kind = "ours" if bar.is_ours else "other"
    end = _LEFT + bar.value * scale
    drawn = [
        f'<text x="{_LEFT - 8}" y="{y + 15:.1f}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{_LEFT}" y="{y:.1f}" width="{max(bar.value * scale, 0):.1f}" height="{_BAR}"/>',
    ]
    if bar.target is not None:
        at = _LEFT + bar.target * scale
        drawn.append(f'<line class="target" x1="{at:.1f}" y1="{y - 2:.1f}" x2="{at:.1f}" y2="{y + _BAR + 2:.1f}"/>')
        end = max(end, at)
    return [*drawn, _text(end + 6, y + 15, bar.text, "")]


def _tick(x: float, bottom: float, text: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom:.1f}"/>'
    return f'{line}<text class="small" x="{x:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{text}</text>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _ceilings(rows: Sequence[Row]) -> Chart:
    """Share of the ceiling: only rows that are held against it."""
    bars = [
        Bar(_short(row.what), row.ratio, f"{row.ratio:.2f} ({row.verdict})", target=row.at_least)
        for row in rows
        if row.ratio is not None and row.at_least is not None and row.at_least <= 1 and row.unit == "photos/s"
    ]
    axis = "photos a second over what decoding and network alone allow on the same cores; the line is the goal"
    return Chart("How much of the machine reaches the network", axis, [Group("", bars)])


def _peers(rows: Sequence[Row]) -> Chart:
    """Photos a second, by the number of clients."""
    groups: dict[str, dict[str, Bar]] = {}
    for row in rows:
        if row.figure is None or row.against is None or row.unit != "photos/s":
            continue
        peer, clients = row.what.removeprefix("against ").split(", ")
        bars = groups.setdefault(clients, {})
        bars["PoxVisio"] = Bar("PoxVisio", row.figure, number(row.figure))
        bars[peer] = Bar(peer, row.against, number(row.against), is_ours=False)
    axis = "photos of 1 MP answered a second; the same network, decoding, photos and client on the same machine"
    return Chart("Photos a second over HTTP", axis, [Group(name, list(bars.values())) for name, bars in groups.items()])


def _killed(rows: Sequence[Row]) -> Chart:
    """Photos without an answer, of those sent while the process that holds the network was killed once."""
    bars: dict[str, Bar] = {}
    for row in rows:
        if "without an answer" in row.what and row.figure is not None and row.against is not None:
            peer = row.what.removeprefix("against ").split(", ")[0]
            bars["PoxVisio"] = Bar("PoxVisio", row.figure, f"{row.figure:.0f} {row.unit}")
            sent = row.yardstick.rpartition(" ")[2]
            bars[peer] = Bar(peer, row.against, f"{row.against:.0f} of {sent}", is_ours=False)
    axis = "photos without an answer, 8 clients, the process that holds the network killed once in the middle"
    return Chart("What a killed process costs", axis, [Group("", list(bars.values()))])


def _short(what: str) -> str:
    words = what.replace("one client, one photo after the other", "one client").replace(" in one job", "")
    return words.split(", HTTP")[0].replace(" of 1 MP", "")


_CHARTS: dict[str, tuple[tuple[str, ...], Callable[[Sequence[Row]], Chart]]] = {
    "ceiling": (("pipeline", "service"), _ceilings),
    "peers": (("peers",), _peers),
    "killed": (("peers",), _killed),
}


if __name__ == "__main__":
    sys.exit(main())
