"""Owns the random draws and the noise fields of the synthetic photos: the same numbers on every numpy release."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float64]


class Stream:
    """Uniform, normal and beta draws made from the raw output of PCG64.

    numpy promises a stable `random_raw`, but not stable distributions, so the distributions are made here.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniforms(self, count: int) -> Field:
        """`count` draws from [0, 1)."""
        raw = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One draw from [low, high)."""
        return low + (high - low) * float(self.uniforms(1)[0])

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + min(int(self.uniform() * (high - low + 1)), high - low)

    def seed(self) -> int:
        """A seed of 32 bits for a further stream."""
        return int(self.uniform() * 2**32)

    def normals(self, *shape: int) -> Field:
        """Standard normal draws of the given shape (Box and Muller 1958)."""
        count = math.prod(shape)
        half = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniforms(half)))
        angle = 2.0 * math.pi * self.uniforms(half)
        both: Field = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:count].reshape(shape)

    def normal(self) -> float:
        """One standard normal draw."""
        return float(self.normals(1)[0])

    def beta(self, a: float, b: float) -> float:
        """One draw from Beta(a, b) with a, b > 1, by rejection under the density's peak."""
        mode = (a - 1.0) / (a + b - 2.0)
        peak = mode ** (a - 1.0) * (1.0 - mode) ** (b - 1.0)
        while True:
            x, level = self.uniforms(2)
            if level * peak <= x ** (a - 1.0) * (1.0 - x) ** (b - 1.0):
                return float(x)


def standardised(field: Field) -> Field:
    """The field with mean 0 and deviation 1."""
    scaled: Field = (field - field.mean()) / max(float(field.std()), 1e-9)
    return scaled


def fractal(stream: Stream, side: int, *, grid: int, octaves: int, gain: float = 0.55) -> Field:
    """Fractal noise [side, side] of mean 0 and deviation 1: cubic octaves, each of twice the grid before it."""
    total = np.zeros((side, side))
    for octave in range(octaves):
        cells = grid * 2**octave
        coarse = Image.fromarray(stream.normals(cells, cells).astype(np.float32))
        fine = coarse.resize((side, side), Image.Resampling.BICUBIC)
        total += gain**octave * np.asarray(fine, dtype=np.float64)
    return standardised(total)


def blurred(field: Field, sigma: float) -> Field:
    """Gaussian blur of a plane [h, w] or picture [h, w, c] over its first two axes; sigma in pixels."""
    reach = max(1, math.ceil(3.0 * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        length = field.shape[axis]
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(field.ndim)]
        wide = np.pad(field, pad, mode="edge")
        field = sum(
            (weight * np.take(wide, range(start, start + length), axis=axis) for start, weight in enumerate(kernel)),
            start=np.zeros_like(field),
        )
    return field
