"""Owns the interval beside every figure: resampling of whole patients, two thousand times, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics import Numbers, Statistic

RESAMPLES = 2000
ENOUGH = 20
_AT_ONCE = 4_000_000  # numbers in one block of weights: 32 MB
_DIGITS = 4
Measure = dict[str, Any]


def no_measure(photos: int, why: str = "") -> Measure:
    """What stands where a figure would say nothing."""
    return {
        "value": None,
        "low": None,
        "high": None,
        "n": photos,
        "reason": why or f"not enough data ({photos} of {ENOUGH} photos)",
    }


@dataclass(frozen=True)
class Resampling:
    """Photos and the patients they are of; `counts` [resamples, patients]: how often each patient was drawn.

    Photos of one patient resemble each other: resampling photos would make every interval too narrow.
    """

    patients: NDArray[np.intp]
    counts: NDArray[np.uint16]

    @classmethod
    def of(cls, patients: NDArray[Any], *, seed: int = 7, resamples: int = RESAMPLES) -> Resampling:
        """Draws the resamples; the same patients in the same order give the same draws."""
        _, codes = np.unique(patients, return_inverse=True)
        many = int(codes.max()) + 1 if len(codes) else 0
        draws = np.random.default_rng(seed).integers(0, max(many, 1), (resamples, many))
        flat = (draws + np.arange(resamples)[:, None] * many).ravel()
        counts = np.bincount(flat, minlength=resamples * many).reshape(resamples, many)
        return cls(codes.astype(np.intp), counts.astype(np.uint16))

    @property
    def many(self) -> int:
        """How many patients there are."""
        return int(self.counts.shape[1])

    def point(self, statistic: Statistic) -> float:
        """The figure itself: every photo counts once."""
        return float(statistic(np.ones((1, len(self.patients))))[0])

    def values(self, statistic: Statistic) -> Numbers:
        """The figure of each resample, in blocks that fit into memory."""
        rows = max(1, _AT_ONCE // max(len(self.patients), 1))
        parts = [
            statistic(self.counts[at : at + rows][:, self.patients].astype(np.float64))
            for at in range(0, len(self.counts), rows)
        ]
        return np.concatenate(parts)

    def measure(self, statistic: Statistic, *, photos: int | None = None) -> Measure:
        """The figure with its 95 % interval and its number of photos; nothing below 20 photos or where undefined.

        `photos` is how many the figure is about, where that is not all of them.
        """
        about = len(self.patients) if photos is None else photos
        if about < ENOUGH:
            return no_measure(about)
        value = self.point(statistic)
        found = self.values(statistic)
        found = found[np.isfinite(found)]
        if not np.isfinite(value) or len(found) < len(self.counts) // 2:
            return no_measure(about, "not defined on these photos (a class is missing)")
        low, high = np.percentile(found, [2.5, 97.5])
        return {"value": shown(value), "low": shown(low), "high": shown(high), "n": about}


def shown(value: float) -> float:
    """The digits that are published; never a negative zero."""
    return round(float(value), _DIGITS) + 0.0
