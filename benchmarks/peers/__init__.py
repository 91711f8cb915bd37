"""Other servers of models with the same network, decoding, photos and client; each in an environment of its own."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Row


def run(*, quick: bool) -> "Iterator[Row]":
    """Measure each of them and this service in turn."""
    # The peers' own processes import this package too, and have nothing of what the comparison needs.
    from benchmarks.peers.comparison import compare  # noqa: PLC0415

    yield from compare(quick=quick)
