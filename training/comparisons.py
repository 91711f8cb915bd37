"""Owns the paired comparison of two classifiers on the same photos: areas, decisions, and their differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.intervals import Measure, Resampling
from training.metrics import Flags, Numbers, Statistic, auroc


def _components(scores: Numbers, positive: Flags) -> tuple[float, Numbers, Numbers]:
    """The area and its structural components: of each positive the share of negatives below, and the reverse."""
    above, below = scores[positive], scores[~positive]
    sorted_below, sorted_above = np.sort(below), np.sort(above)
    left, right = (np.searchsorted(sorted_below, above, side) for side in ("left", "right"))
    of_positives = (left + right) / 2.0 / len(below)
    left, right = (np.searchsorted(sorted_above, below, side) for side in ("left", "right"))
    of_negatives = 1.0 - (left + right) / 2.0 / len(above)
    return float(of_positives.mean()), of_positives, of_negatives


def _by_patient(values: Numbers, patients: NDArray[np.intp], many: int) -> Numbers:
    return np.asarray(np.bincount(patients, weights=values, minlength=many), dtype=np.float64)


def delong(one: Numbers, other: Numbers, positive: Flags, patients: NDArray[Any]) -> dict[str, float | None]:
    """Difference of two areas under the ROC curve on the same photos, with its two-sided p.

    DeLong et al. 1988 with Obuchowski's (1997) sums over patients, whose photos are not independent. p is None where
    the difference does not vary (two equal rankings) or a class is missing.
    """
    if not 0 < positive.sum() < len(positive):
        return {"difference": None, "z": None, "p": None}
    _, codes = np.unique(patients, return_inverse=True)
    many, n, m = int(codes.max()) + 1, int(positive.sum()), int((~positive).sum())
    areas, sums = [], []
    for scores in (one, other):
        area, v10, v01 = _components(scores, positive)
        areas.append(area)
        of_positives = _by_patient(v10 - area, codes[positive], many) * math.sqrt(many / max(many - 1, 1)) / n
        of_negatives = _by_patient(v01 - area, codes[~positive], many) * math.sqrt(many / max(many - 1, 1)) / m
        sums.append(of_positives + of_negatives)
    variance = float(((sums[0] - sums[1]) ** 2).sum())
    difference = areas[0] - areas[1]
    if variance <= 0.0:
        return {"difference": round(difference, 4), "z": None, "p": None}
    z = difference / math.sqrt(variance)
    return {"difference": round(difference, 4), "z": round(z, 3), "p": round(math.erfc(abs(z) / math.sqrt(2.0)), 6)}


def mcnemar(right: Flags, other_right: Flags) -> dict[str, float | int]:
    """Photos that only one of two classifiers gets right, and the exact two-sided p (McNemar 1947, binomial)."""
    only, only_other = int((right & ~other_right).sum()), int((~right & other_right).sum())
    n, least = only + only_other, min(only, only_other)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    return {"only_this": only, "only_other": only_other, "p": round(min(1.0, 2.0 * tail), 6)}


def difference(one: Statistic, other: Statistic, sample: Resampling) -> Measure:
    """One statistic minus another on the same resamples."""
    return sample.measure(lambda weights: one(weights) - other(weights))


def area_difference(one: Numbers, other: Numbers, positive: Flags, sample: Resampling) -> Measure:
    """Difference of two areas under the ROC curve, with the interval from resampled patients."""
    return difference(auroc(one, positive), auroc(other, positive), sample)
