"""Owns the interval beside every figure: resampling of whole patients, two thousand times, all at once.

Where all patients are alike every resample is too, and shows no spread though another patient might. A share then has
the exact interval of as many patients (Clopper and Pearson 1934), predictive values what follows from theirs, and any
other figure the mark `constant`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics import Numbers, Predictive, Share, Statistic

RESAMPLES = 2000
ENOUGH = 20
_AT_ONCE = 4_000_000  # numbers in one block of weights: 32 MB
_DIGITS = 4
_TAIL = 0.025
_NOUGHT = 1e-9
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
        found = _finite(self.values(statistic))
        if not np.isfinite(value) or len(found) < len(self.counts) // 2:
            return no_measure(about, "not defined on these photos (a class is missing, or never called)")
        low, high, constant = self._interval(statistic, value, found)
        told = {"value": shown(value), "low": shown(low), "high": shown(high), "n": about}
        return {**told, "constant": True} if constant else told

    def _interval(self, statistic: Statistic, value: float, found: Numbers) -> tuple[float, float, bool]:
        """Low and high end, and whether they say nothing since all resamples are equal."""
        low, high = np.percentile(found, [100 * _TAIL, 100 * (1 - _TAIL)])
        if np.ptp(found) > _NOUGHT:
            return float(low), float(high), False
        if isinstance(statistic, Share) and min(value, 1.0 - value) < _NOUGHT:
            unseen = 1.0 - _TAIL ** (1.0 / len(np.unique(self.patients[statistic.among])))
            return max(value - unseen, 0.0), min(value + unseen, 1.0), False
        if isinstance(statistic, Predictive):
            parts = (statistic.sensitivity, statistic.specificity)
            ends = np.array([self._interval(part, self.point(part), _finite(self.values(part)))[:2] for part in parts])
            low, high = statistic.at(ends[0], ends[1])
            return float(low), float(high), bool(high - low < _NOUGHT)
        return float(low), float(high), True


def _finite(found: Numbers) -> Numbers:
    return np.asarray(found[np.isfinite(found)])


def shown(value: float) -> float:
    """The digits that are published; never a negative zero."""
    return round(float(value), _DIGITS) + 0.0
