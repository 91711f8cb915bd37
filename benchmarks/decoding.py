"""Benchmark of decoding: CPU of a photo in our decoding child's code against Pillow's full decode and resize."""

import statistics
import time
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.pictures import LARGE, MEDIUM, SMALL, Kind, kind_named, photos
from benchmarks.report import Row, versus
from worker.decoding.child import answer
from worker.decoding.outcomes import Limits
from worker.inference.preprocess import SIDE

LIMITS = Limits(max_bytes=50 << 20, max_pixels=40_000_000, copy_side=768)
_PIXELS = SIDE * SIDE * 3


class Decoding:
    """Our decoding in a process of its own; each question is a number of photos, read one after the other."""

    def __init__(self, kind: str, different: int) -> None:
        self._photos = photos(kind_named(kind), different)
        self._next = 0

    def __call__(self, count: int) -> None:
        """Decode so many photos."""
        for _ in range(count):
            ours(self._photos[self._next % len(self._photos)])
            self._next += 1


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
    cpu: dict[str, list[float]] = {"ours": [], "pillow": []}
    apart = [float(np.abs(ours(data).astype(int) - pillow(data).astype(int)).mean()) for data in seen]
    for _ in range(rounds):
        for data in seen:
            for name, decode in (("ours", ours), ("pillow", pillow)):
                began = time.process_time()
                decode(data)
                cpu[name].append(1000 * (time.process_time() - began))
    size = statistics.mean(len(data) for data in seen) / 1e6
    mine, theirs = (statistics.median(found) for found in cpu.values())
    note = f"{size:.2f} MB a file; ours also makes the working copy, measures quality and looks for damage"
    phone = kind is not SMALL
    what = f"decoding {kind.name}"
    yield versus(what, mine, "ms CPU", "Pillow, full", theirs, at_most=0.25 if phone else None, note=note)
    what = f"{what}, mean pixel difference"
    yield versus(what, statistics.mean(apart), "of 255", "allowed", 0.4, at_most=1.0 if phone else None)
