"""Benchmark of decoding: CPU of a photo in our decoding child's code against Pillow's full decode and resize.

Each has a process of its own, since what one leaves of its heap would spare the other page faults: ours with the heap
of a decoding child, Pillow's as Python starts it.
"""

import ctypes
import statistics
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.apart import Apart
from benchmarks.pictures import LARGE, MEDIUM, SMALL, Kind, kind_named, photos
from benchmarks.report import Row, versus
from worker.decoding.child import answer
from worker.decoding.decoder import HEAP
from worker.decoding.outcomes import Limits
from worker.inference.preprocess import SIDE

LIMITS = Limits(max_bytes=50 << 20, max_pixels=40_000_000, copy_side=1024)
_PIXELS = SIDE * SIDE * 3
# malloc.h of glibc, by the name of the variable that sets the same in a process to be started
_MALLOPT = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}


class Decoding:
    """Our decoding in a process of its own; each question is a number of photos, read one after the other."""

    def __init__(self, kind: str, different: int) -> None:
        libc = ctypes.CDLL(None)
        for name, number in _MALLOPT.items() if hasattr(libc, "mallopt") else ():
            libc.mallopt(number, int(HEAP[name]))
        self._photos = photos(kind_named(kind), different)
        self._next = 0

    def __call__(self, count: int) -> None:
        """Decode so many photos."""
        for _ in range(count):
            self._decode(self._photos[self._next % len(self._photos)])
            self._next += 1

    def _decode(self, data: bytes) -> None:
        ours(data)


class Usual(Decoding):
    """Pillow's decoding, asked the same questions."""

    def __init__(self, kind: str, different: int) -> None:
        self._photos = photos(kind_named(kind), different)
        self._next = 0

    def _decode(self, data: bytes) -> None:
        pillow(data)


def ours(data: bytes) -> NDArray[np.uint8]:
    """Return the network's input as a decoding child makes it, beside the working copy and the quality."""
    head, parts = answer(data, LIMITS)
    if not parts:
        raise RuntimeError(f"a photo was rejected: {head}")
    return np.frombuffer(parts[0], np.uint8, _PIXELS).reshape(SIDE, SIDE, 3)


def pillow(data: bytes) -> NDArray[np.uint8]:
    """Return the network's input as the usual way makes it: the whole photo, then an antialiased resize."""
    with Image.open(BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def run(*, quick: bool) -> Iterator[Row]:
    """Measure three kinds of photos."""
    for kind in (SMALL,) if quick else (LARGE, MEDIUM, SMALL):
        yield from _run(kind, different=1 if quick else 4, rounds=1 if quick else 7)


def _run(kind: Kind, different: int, rounds: int) -> Iterator[Row]:
    seen = photos(kind, different)
    cpu: tuple[list[float], list[float]] = [], []
    apart = [float(np.abs(ours(data).astype(int) - pillow(data).astype(int)).mean()) for data in seen]
    with (
        Apart("benchmarks.decoding:Decoding", kind=kind.name, different=different) as mine_apart,
        Apart("benchmarks.decoding:Usual", kind=kind.name, different=different) as usual_apart,
    ):
        for turn in range(1 + rounds * different):
            for part, found in zip((mine_apart, usual_apart), cpu, strict=True):
                took = part.ask(count=1)
                if turn:  # the first one loads what it needs
                    found.append(1000 * took.cpu)
    size = statistics.mean(len(data) for data in seen) / 1e6
    mine, theirs = (statistics.median(found) for found in cpu)
    note = f"{size:.2f} MB a file; ours also makes the working copy, measures quality and looks for damage"
    phone = kind is not SMALL
    what = f"decoding {kind.name}"
    yield versus(what, mine, "ms CPU", "Pillow, full", theirs, at_most=0.25 if phone else None, note=note)
    what = f"{what}, mean pixel difference"
    yield versus(what, statistics.mean(apart), "of 255", "allowed", 0.4, at_most=1.0 if phone else None)
