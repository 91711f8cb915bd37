"""How a command shows that it gets on: a moving bar on a terminal, and elsewhere a plain line now and then.

Both go to stderr, so that what a command prints on stdout can be read by a program.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES: Final = 5.0


def tell(text: str) -> None:
    """Say something to the person, above a bar that moves.

    With ``print``, because a bar takes ``sys.stderr`` over, which ``click.echo`` goes around.
    """
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int, unit: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show work of ``total`` bytes or photos (``unit``); the block is given a function that is told how far it is."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar(what, total, unit) as advance:
            yield advance
    else:
        yield _Lines(what, total, unit)


@contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    counted = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total)
        yield lambda done: bars.update(task, completed=done)


class _Lines:
    """A line when enough time has passed, and one at the end."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
        self._ended = False

    def __call__(self, done: int) -> None:
        ended = done >= self._total
        if (ended and not self._ended) or time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
            self._ended = ended
            tell(f"{self._what}: {done:,} of {self._total:,} {self._unit}")
