"""Owns the figures of the report as SVG: lines with bands, dots with intervals, bars, and the confusion matrix.

Drawn here and not by a plotting library: the same numbers give the same bytes, colours follow the page (screen, print,
light or dark), and text stays text. A figure of generated photos bears the word SYNTHETIC.
"""

# ruff: noqa: E501, ISC004, PERF401 - a style sheet, and parts of SVG in the order in which they are drawn
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from training.report.plain import said

Row = Mapping[str, Any]
WIDTH, HEIGHT = 440, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 16, 26, 46
_TICKS: Final = 7
_NARROW: Final = 80  # below which labels beneath a column would meet
# Only for figures that stand alone; on the page its own style decides.
STYLE: Final = """
.fig text{font:11px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#33404d}.fig .t{font-weight:600;font-size:12px}
.fig .grid{stroke:#e3e8ee;stroke-width:1}.fig .axis{stroke:#8895a3;stroke-width:1}.fig .line{fill:none;stroke:#0b6e99;stroke-width:2}
.fig .band{fill:#0b6e99;fill-opacity:.16;stroke:none}.fig .other{fill:none;stroke:#8895a3;stroke-width:1.5;stroke-dasharray:5 4}
.fig .dot{fill:#0b6e99}.fig .whisker{stroke:#0b6e99;stroke-width:2}.fig .yes{fill:#b4492c;fill-opacity:.8}
.fig .no{fill:#0b6e99;fill-opacity:.55}.fig .cell{fill:#0b6e99}.fig .mark{fill:#b4492c;font-weight:700;letter-spacing:1px}
.fig .mute{fill:#6b7886}
"""


@dataclass(frozen=True)
class Frame:
    """Axes of a plot: what they say and from where to where they go."""

    title: str
    x: str
    y: str
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    synthetic: bool = False

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point on the paper."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        across = _LEFT + (x - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - (min(max(y, y0), y1) - y0) / (y1 - y0) * (HEIGHT - _TOP - _BOTTOM)
        return across, down


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _wrapped(width: float, height: float, title: str, parts: Sequence[str], *, synthetic: bool) -> str:
    mark = [_text(width - _RIGHT, 16, "SYNTHETIC", "mark", "end")] if synthetic else []
    label = f"{title}{' (synthetic photos)' if synthetic else ''}"
    return "\n".join(
        [
            f'<svg class="fig" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
            f'aria-label="{escape(label)}">',
            _text(4, 16, title, "t"),
            *mark,
            *parts,
            "</svg>",
        ]
    )


def standalone(svg: str) -> str:
    """The same figure as a file that needs nothing else."""
    head, _, rest = svg.partition(">")
    return f"{head}><style>{STYLE}</style>{rest}\n"


def _ticks(low: float, high: float) -> list[float]:
    """At most eight round numbers within the range."""
    step = next((s for s in (0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if (high - low) / s <= _TICKS), 1.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * number, 4) + 0.0 for number in range(first, last + 1)]


def _axes(frame: Frame) -> list[str]:
    (x0, x1), (y0, y1) = frame.x_range, frame.y_range
    parts = []
    for y in _ticks(y0, y1):
        a, b = frame.at(x0, y)
        parts += [_line(a, b, frame.at(x1, y)[0], b, "grid"), _text(a - 6, b + 4, f"{y:.2g}", "mute", "end")]
    for x in _ticks(x0, x1):
        a, b = frame.at(x, y0)
        parts += [_line(a, b, a, b + 4, "axis"), _text(a, b + 17, f"{x:.2g}", "mute", "middle")]
    left, bottom = frame.at(x0, y0)
    right = frame.at(x1, y0)[0]
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    return [
        *parts,
        _line(left, bottom, right, bottom, "axis"),
        _text((left + right) / 2, HEIGHT - 10, frame.x, "", "middle"),
        f'<text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">'
        f"{escape(frame.y)}</text>",
    ]


def _path(frame: Frame, points: Sequence[tuple[float, float]]) -> str:
    places = [frame.at(x, y) for x, y in points]
    return "M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in places)


def band_plot(
    frame: Frame,
    curve: Sequence[Row],
    *,
    others: Sequence[tuple[str, Sequence[tuple[float, float]]]] = (),
    dots: bool = False,
    legend_below: bool = False,
) -> str:
    """A line with the band of its resamples, and thin dashed lines beside it, each with its name.

    The names stand in the upper left, or where there is one in the lower right, whichever the curve leaves free.
    """
    parts = _axes(frame)
    if curve:
        edge = [(r["x"], r["high"]) for r in curve] + [(r["x"], r["low"]) for r in reversed(curve)]
        if not dots:
            parts.append(f'<path class="band" d="{_path(frame, edge)} Z"/>')
    for place, (name, points) in enumerate(others):
        parts.append(f'<path class="other" d="{_path(frame, points)}"/>')
        x, y = (WIDTH - 130, HEIGHT - _BOTTOM - 14) if legend_below else (_LEFT + 10, _TOP + 12 + 15 * place)
        parts += [_line(x, y, x + 20, y, "other"), _text(x + 25, y + 4, name, "mute")]
    if curve:
        parts.append(f'<path class="line" d="{_path(frame, [(r["x"], r["y"]) for r in curve])}"/>')
    for row in curve if dots else ():
        (a, low), (_, high) = frame.at(row["x"], row["low"]), frame.at(row["x"], row["high"])
        parts.append(_line(a, low, a, high, "whisker"))
        parts.append(f'<circle class="dot" cx="{a:.1f}" cy="{frame.at(row["x"], row["y"])[1]:.1f}" r="3.5"/>')
    return _wrapped(WIDTH, HEIGHT, frame.title, parts, synthetic=frame.synthetic)


def histogram(frame: Frame, bins: Sequence[Row], names: tuple[str, str]) -> str:
    """Positives above the axis and negatives below it, by probability."""
    most = max([1, *(max(row["positive"], row["negative"]) for row in bins)])
    middle, reach = (_TOP + HEIGHT - _BOTTOM) / 2, (HEIGHT - _TOP - _BOTTOM) / 2 - 22
    wide = (WIDTH - _LEFT - _RIGHT) / len(bins)
    parts = []
    for row in bins:
        x = frame.at(row["x"], 0.0)[0]
        up, down = reach * row["positive"] / most, reach * row["negative"] / most
        parts.append(
            f'<rect class="yes" x="{x + 1:.1f}" y="{middle - up:.1f}" width="{wide - 2:.1f}" height="{up:.1f}"/>'
        )
        parts.append(f'<rect class="no" x="{x + 1:.1f}" y="{middle:.1f}" width="{wide - 2:.1f}" height="{down:.1f}"/>')
    parts.append(_line(_LEFT, middle, WIDTH - _RIGHT, middle, "axis"))
    for x in _ticks(0.0, 1.0):
        parts.append(_text(frame.at(x, 0.0)[0], HEIGHT - _BOTTOM + 15, f"{x:.2g}", "mute", "middle"))
    for count, y in ((most, middle - reach), (0, middle), (most, middle + reach)):
        parts.append(_text(_LEFT - 6, y + 4, str(count), "mute", "end"))
    parts += [
        _text(_LEFT + 6, _TOP + 12, names[0]),
        _text(_LEFT + 6, HEIGHT - _BOTTOM - 4, names[1]),
        _text((WIDTH + _LEFT) / 2, HEIGHT - 10, frame.x, "", "middle"),
    ]
    return _wrapped(WIDTH, HEIGHT, frame.title, parts, synthetic=frame.synthetic)


def forest(title: str, rows: Sequence[tuple[str, Row]], *, low: float = 0.0, synthetic: bool = False) -> str:
    """A dot with its interval per row, on one axis from `low` to 1; rows without enough data say so."""
    left, right, step = 190, WIDTH - 116, 21
    height = 34 + step * len(rows) + 28
    scale = (right - left) / (1.0 - low)
    bottom = height - 26
    parts = [_line(left + (x - low) * scale, 26, left + (x - low) * scale, bottom, "grid") for x in _ticks(low, 1.0)]
    parts += [_text(left + (x - low) * scale, bottom + 15, f"{x:.2g}", "mute", "middle") for x in _ticks(low, 1.0)]
    for place, (name, row) in enumerate(rows):
        y = 42 + step * place
        parts.append(_text(left - 10, y + 4, name, "", "end"))
        if row["value"] is None:
            parts.append(_text(left + 6, y + 4, "not enough data", "mute"))
            continue
        a, b, c = (left + (max(row[key], low) - low) * scale for key in ("low", "value", "high"))
        parts += [_line(a, y, c, y, "whisker"), f'<circle class="dot" cx="{b:.1f}" cy="{y:.1f}" r="4"/>']
        value, least, most = said(row, 2)
        parts.append(_text(right + 10, y + 4, value if "constant" in row else f"{value} ({least}-{most})"))
    return _wrapped(WIDTH, height, title, parts, synthetic=synthetic)


def confusion(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]], *, synthetic: bool) -> str:
    """Rows: what the photos are; columns: what they were called; shade: the share of the row."""
    left, top, side = 120, 46, min(110.0, 300.0 / len(labels))
    parts = [_text(left + side * len(labels) / 2, 36, "called", "mute", "middle")]
    for i, label in enumerate(labels):
        total = max(sum(counts[i]), 1)
        parts.append(_text(left - 8, top + side * (i + 0.5) + 4, _short(label), "", "end"))
        x, y = left + side * (i + 0.5), top + side * len(labels) + 15
        slant = f' transform="rotate(-35 {x:.1f} {y:.1f})"' if side < _NARROW else ""
        anchor = "end" if slant else "middle"
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{slant}>{escape(_short(label))}</text>')
        for j, count in enumerate(counts[i]):
            x, y, part = left + side * j, top + side * i, count / total
            parts.append(f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{side - 2:.1f}" height="{side - 2:.1f}" '
                         f'fill-opacity="{0.06 + 0.5 * part:.3f}"/>')  # fmt: skip
            parts.append(_text(x + side / 2 - 1, y + side / 2, str(count), "t", "middle"))
            parts.append(_text(x + side / 2 - 1, y + side / 2 + 14, f"{100 * part:.0f} %", "mute", "middle"))
    below = 66 if side < _NARROW else 26
    return _wrapped(WIDTH, top + side * len(labels) + below, title, parts, synthetic=synthetic)


def places(title: str, areas: Sequence[float], *, synthetic: bool) -> str:
    """A square grid of areas under the ROC curve as the photo lies; shade: from chance (0.5) to certainty (1)."""
    many = round(len(areas) ** 0.5)
    top, side = 30, 300 / many
    left = (WIDTH - side * many) / 2
    parts = []
    for at, area in enumerate(areas):
        x, y = left + side * (at % many), top + side * (at // many)
        shade = 0.04 + 0.9 * min(max(2.0 * (area - 0.5), 0.0), 1.0)
        parts.append(f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{side - 2:.1f}" height="{side - 2:.1f}" '
                     f'fill-opacity="{shade:.3f}"/>')  # fmt: skip
        parts.append(_text(x + side / 2 - 1, y + side / 2 + 4, f"{area:.2f}", "", "middle"))
    return _wrapped(WIDTH, top + side * many + 8, title, parts, synthetic=synthetic)


def _short(label: str) -> str:
    bare = label.removesuffix(" (synthetic)")
    return bare if len(bare) <= 14 else f"{bare[:13]}…"  # noqa: PLR2004 - what fits
