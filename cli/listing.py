"""Jobs and results as lines of text: columns a person can read, in widths known before the first line."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from cli.archives import is_archive
from cli.photos import Photo
from shared.vocabulary import OUTCOMES

RESEARCH_USE: Final = "Research use only: not a medical device. An answer here is no diagnosis."
# What a person has to look at: nothing came of these photos.
UNANSWERED: Final = ("rejected", "failed", "cancelled", "expired")
_WIDEST: Final = 48
_HEADS: Final = ("photo", "outcome", "label", "probability", "reasons")
# The labels of the demo bundle are the longest there are.
_WIDTHS: Final = (10, 17, 11)


def result_table(results: Iterable[Mapping[str, Any]], names: Iterable[str]) -> Iterator[str]:
    """Yield one line for each result, under a line of column names; ``names`` are the photos' for the width."""
    widths = (min(_WIDEST, max((_cells(name) for name in names), default=5)), *_WIDTHS)
    yield line(_HEADS, widths)
    for result in results:
        yield line(result_cells(result), widths)


def result_cells(result: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return photo, outcome, label, its probability and the reasons."""
    label = result.get("label") or ""
    likely = (result.get("probabilities") or {}).get(label)
    return (
        str(result.get("file_name") or result.get("custom_id") or result["image"]),
        str(result["outcome"] or "waiting"),
        label,
        "" if likely is None else f"{likely:.3f}",
        "; ".join(map(str, result.get("reasons") or ())),
    )


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return cells as columns; those without a width are as wide as they are. Only a name, the first, is cut to fit."""
    first = _fit(cells[0], widths[0])
    others = [_padded(printable(cell), width) for cell, width in zip(cells[1:], widths[1:], strict=False)]
    return "  ".join([first, *others, *map(printable, cells[len(widths) :])]).rstrip()


def printable(text: str) -> str:
    """Return text of others without control characters: a file name must not steer the terminal."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)


def counts_line(counts: Mapping[str, int]) -> str:
    """Return the counts of a job, or of several together, in one sentence."""
    told = [f"{counts[name]:,} {name}" for name in (*OUTCOMES, "waiting") if counts.get(name)]
    total = sum(counts.values())
    return f"{total:,} photo{'s' * (total != 1)}: {', '.join(told) or 'none'}"


def job_line(job: Mapping[str, Any]) -> str:
    """Return a job in one line."""
    return line(
        (str(job["id"]), str(job["state"]), str(job.get("created_at", ""))[:19], counts_line(job["counts"])),
        (36, 9, 19),
    )


def added(jobs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the counts of several jobs together."""
    together: dict[str, int] = {}
    for job in jobs:
        for name, count in job["counts"].items():
            together[name] = together.get(name, 0) + count
    return together


def size_text(photos: Sequence[Photo]) -> str:
    """Return how much there is to send."""
    size = float(sum(photo.size for photo in photos))
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":  # noqa: PLR2004 - the step of the units
            break
        size /= 1000
    archives = sum(is_archive(photo) for photo in photos)
    kinds = [(len(photos) - archives, "photo"), (archives, "archive")]
    told = " and ".join(f"{count:,} {kind}{'s' * (count != 1)}" for count, kind in kinds if count)
    return f"{told}, {size:.{0 if unit == 'B' else 1}f} {unit}"


def _fit(name: str, width: int) -> str:
    """A name that is too long loses its beginning: what tells photos apart is mostly at the end."""
    name = printable(name)
    while _cells(name) > width:
        name = "…" + name[2:]
    return _padded(name, width)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _cells(text))


def _cells(text: str) -> int:
    """Columns a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else not unicodedata.combining(char) for char in text)
