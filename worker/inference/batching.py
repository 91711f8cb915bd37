"""Owns the fixed shapes in which photos go to a library that compiles by shape, and their choice by measurement."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.inference.engine import Outputs
from worker.inference.preprocess import SIDE

# Photos of one shape in; logits, evidence and features out.
Run = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]
# On a CPU: one photo alone costs little more than itself, and 32 are enough.
CPU_SIZES = (2, 8, 32)
GPU_SIZES = (8, 16, 32, 64, 128, 256)
# A size that is this much slower than the best counts as good as it: smaller batches answer sooner and need less room.
_NEAR = 0.05
_REPEATS = 3


def in_shapes(run: Run, photos: NDArray[np.uint8], sizes: Sequence[int]) -> Outputs:
    """Outputs of photos [n, 224, 224, 3], any n >= 1, computed in batches of the given ascending sizes alone."""
    largest = sizes[-1]
    parts = [_cut(run, photos[at : at + largest], sizes) for at in range(0, len(photos), largest)]
    logits, evidence, features = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Outputs(logits, evidence, features)


def padded(photos: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The photos followed by black ones, `size` in all."""
    full = np.zeros((size, *photos.shape[1:]), dtype=photos.dtype)
    full[: len(photos)] = photos
    return full


def measured_seconds(
    run: Run,
    *,
    sizes: Sequence[int] = GPU_SIZES,
    exhausted: tuple[type[Exception], ...] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Seconds of one batch by its size, ascending: the median of three after one that compiles.

    Ends where twice the size gains no more, since compiling each further shape takes long, and where `exhausted` says
    that the device has no room for it; the smallest size must fit.
    """
    seconds: dict[int, float] = {}
    for size in sizes:
        photos = np.random.default_rng(0).integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8)
        try:
            run(photos)
            seconds[size] = _median_seconds(run, photos, clock)
        except exhausted:
            if not seconds:
                raise
            break
        if chosen_size(seconds) != size:
            break
    return seconds


def chosen_size(seconds: Mapping[int, float]) -> int:
    """The smallest size whose photos per second come within 5 % of the best."""
    rates = {size: size / took for size, took in seconds.items()}
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= best * (1 - _NEAR))


def as_record(device: str, seconds: Mapping[int, float]) -> dict[str, object]:
    """What the parity record says of a measurement."""
    return {
        "device": device,
        "batch": chosen_size(seconds),
        "photos_per_second": {str(size): round(size / took, 1) for size, took in seconds.items()},
    }


def _cut(run: Run, photos: NDArray[np.uint8], sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    size = next(size for size in sizes if size >= len(photos))
    return [np.asarray(found, dtype=np.float32)[: len(photos)] for found in run(padded(photos, size))]


def _median_seconds(run: Run, photos: NDArray[np.uint8], clock: Callable[[], float]) -> float:
    took = []
    for _ in range(_REPEATS):
        began = clock()
        run(photos)
        took.append(clock() - began)
    return statistics.median(took)
