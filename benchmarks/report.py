"""Rows of the report: a figure, its yardstick, what must be reached; the table, the file of results, the README."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: written by the benchmarks -->", "<!-- end of figures -->"
_HEADINGS = ("what", "figure", "yardstick of the same run", "ratio", "target", "")


@dataclass(frozen=True)
class Row:
    """One line: ``ratio`` is what the target speaks of, as a rule the figure over the yardstick."""

    what: str
    figure: float | None
    unit: str
    yardstick: str
    against: float | None = None
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """What must be reached, as a person reads it; empty for a row that only informs."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        """Return ``reached``, ``missed``, ``not measured``, or nothing where there is no target."""
        if not self.target:
            return ""
        if self.ratio is None:
            return "not measured"
        reached = self.ratio >= self.at_least if self.at_least is not None else self.ratio <= (self.at_most or 0.0)
        return "reached" if reached else "missed"

    def cells(self) -> list[str]:
        """Return the row as the table shows it."""
        figure = "" if self.figure is None else f"{number(self.figure)} {self.unit}".strip()
        against = self.yardstick if self.against is None else f"{self.yardstick}: {number(self.against)}"
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        return [self.what, figure, against, ratio, self.target, self.verdict]


def number(value: float) -> str:
    """Return a number with three digits that mean something, without an exponent."""
    if abs(value) >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}"


def versus(what: str, figure: float, unit: str, yardstick: str, against: float, **more: Any) -> Row:
    """Return a row whose ratio is the figure over its yardstick."""
    return Row(what, figure, unit, yardstick, against, figure / against, **more)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of Markdown, aligned so that a terminal shows it too; notes stand below."""
    lines = [list(_HEADINGS), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    lines.insert(1, ["-" * width for width in widths])
    text = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines]
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*text, *(["", *notes] if notes else [])])


def section(name: str, run: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Return one benchmark as the file of results keeps it."""
    return {
        "name": name,
        **run,
        "rows": [{**asdict(row), "target": row.target, "verdict": row.verdict} for row in rows],
    }


def read_rows(stored: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a stored section."""
    known = set(Row.__dataclass_fields__)
    return [Row(**{key: value for key, value in row.items() if key in known}) for row in stored["rows"]]


def store(path: Path, sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put the sections into the file of results, each in place of its predecessor, and return all that it holds."""
    known = {item["name"]: item for item in load(path)}
    known.update({str(item["name"]): dict(item) for item in sections})
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = list(known.values())
    path.write_text(json.dumps({"benchmarks": kept}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return kept


def load(path: Path) -> list[dict[str, Any]]:
    """Return the sections of a file of results; none where there is no file."""
    if not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    return found


def figures(sections: Sequence[Mapping[str, Any]]) -> str:
    """Return all stored figures as the README shows them."""
    parts = []
    for item in sections:
        machine = item["machine"]
        parts.append(
            f"### {item['name']}\n\n{table(read_rows(item))}\n\n"
            f"`{item['command']}`, {item['date']}, {item['seconds']:.0f} s; {machine['processor']}, "
            f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['kernel']}, Python {machine['python']}; "
            f"load {item['load_before'][0]} before and {item['load_after'][0]} after."
        )
    return "\n\n".join(parts)


def write_figures(readme: Path, sections: Sequence[Mapping[str, Any]]) -> None:
    """Put the figures into the README, between its two marks."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n\n{figures(sections)}\n\n{END}{after}", encoding="utf-8")
