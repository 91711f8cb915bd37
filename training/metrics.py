"""Owns the metrics of the evaluation, each as a function of how often every photo counts.

A statistic takes weights [resamples, photos] and returns its value for each resample; with a single row of ones it is
the plain metric. One piece of code so gives the figure and, over the resamples of `training.intervals`, its interval.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
Statistic = Callable[[Numbers], Numbers]
BINS = 15


def _over(above: Numbers, below: Numbers) -> Numbers:
    """The ratio, not a number where nothing was counted."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below > 0, above / below, np.nan), dtype=np.float64)


class Share:
    """How many of the photos in `among` (all by default) carry the flag. A statistic that knows whom it is about."""

    def __init__(self, flags: Flags, among: Flags | None = None) -> None:
        self.among = np.ones(len(flags), dtype=bool) if among is None else among
        self._hit, self._base = (flags & self.among).astype(np.float64), self.among.astype(np.float64)

    def __call__(self, weights: Numbers) -> Numbers:
        """The share [resamples] under weights [resamples, photos]."""
        return _over(weights @ self._hit, weights @ self._base)


class Predictive:
    """A predictive value at a prevalence, from sensitivity and specificity (Bayes); it rises with both."""

    def __init__(self, sensitivity: Share, specificity: Share, prevalence: float, *, of_positives: bool) -> None:
        self.sensitivity, self.specificity = sensitivity, specificity
        self._prevalence, self._of_positives = prevalence, of_positives

    def __call__(self, weights: Numbers) -> Numbers:
        """The predictive value [resamples] under weights [resamples, photos]."""
        return self.at(self.sensitivity(weights), self.specificity(weights))

    def at(self, sensitivity: Numbers, specificity: Numbers) -> Numbers:
        """The predictive value at these sensitivities and specificities [n]."""
        ill, well = self._prevalence, 1.0 - self._prevalence
        if self._of_positives:
            return _over(sensitivity * ill, sensitivity * ill + (1.0 - specificity) * well)
        return _over(specificity * well, specificity * well + (1.0 - sensitivity) * ill)


def share(flags: Flags, among: Flags | None = None) -> Share:
    """How many of the photos in `among` (all by default) carry the flag."""
    return Share(flags, among)


def mean(values: Numbers, among: Flags | None = None) -> Statistic:
    """The mean of a figure that each photo has."""
    base = np.ones(len(values)) if among is None else among.astype(np.float64)
    return lambda weights: _over(weights @ (values * base), weights @ base)


class Counts:
    """The four cells of a two-way table at a decision, and what follows from them."""

    def __init__(self, called: Flags, positive: Flags) -> None:
        cells = (called & positive, called & ~positive, ~called & ~positive, ~called & positive)
        self._cells = np.stack(cells, axis=1).astype(np.float64)
        #: TP / (TP + FN), and TN / (TN + FP).
        self.sensitivity, self.specificity = Share(called, positive), Share(~called, ~positive)

    def cells(self, weights: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """True positives, false positives, true negatives, false negatives."""
        found = weights @ self._cells
        return found[:, 0], found[:, 1], found[:, 2], found[:, 3]

    def balanced_accuracy(self, weights: Numbers) -> Numbers:
        """The mean of sensitivity and specificity."""
        return (self.sensitivity(weights) + self.specificity(weights)) / 2.0

    def f1(self, weights: Numbers) -> Numbers:
        """2 TP / (2 TP + FP + FN)."""
        tp, fp, _, fn = self.cells(weights)
        return _over(2.0 * tp, 2.0 * tp + fp + fn)

    def mcc(self, weights: Numbers) -> Numbers:
        """The correlation of decision and truth (Matthews 1975); 0 where either is constant."""
        tp, fp, tn, fn = self.cells(weights)
        below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return np.asarray(np.where(below > 0, (tp * tn - fp * fn) / np.where(below > 0, below, 1.0), 0.0))

    def ppv(self, prevalence: float) -> Predictive:
        """The predictive value of a positive answer where this share of photos is positive."""
        return Predictive(self.sensitivity, self.specificity, prevalence, of_positives=True)

    def npv(self, prevalence: float) -> Predictive:
        """The predictive value of a negative answer where this share of photos is positive."""
        return Predictive(self.sensitivity, self.specificity, prevalence, of_positives=False)


def ranked(scores: Numbers, positive: Flags) -> Callable[[Numbers], tuple[Numbers, Numbers]]:
    """Weight of positives and of negatives [resamples, levels] at each distinct score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) != 0]))
    good, bad = positive[order].astype(np.float64), (~positive[order]).astype(np.float64)

    def levels(weights: Numbers) -> tuple[Numbers, Numbers]:
        sorted_weights = weights[:, order]
        return (
            np.add.reduceat(sorted_weights * good, starts, axis=1),
            np.add.reduceat(sorted_weights * bad, starts, axis=1),
        )

    return levels


def auroc(scores: Numbers, positive: Flags) -> Statistic:
    """Area under the ROC curve: how often a positive outranks a negative, ties by half (Mann and Whitney 1947)."""
    levels = ranked(scores, positive)

    def area(weights: Numbers) -> Numbers:
        good, bad = levels(weights)
        below = bad.sum(axis=1, keepdims=True) - np.cumsum(bad, axis=1)
        return _over((good * (below + 0.5 * bad)).sum(axis=1), good.sum(axis=1) * bad.sum(axis=1))

    return area


def average_precision(scores: Numbers, positive: Flags) -> Statistic:
    """Area under the precision-recall curve as the step-wise sum (no interpolation: Davis and Goadrich 2006)."""
    levels = ranked(scores, positive)

    def area(weights: Numbers) -> Numbers:
        good, bad = levels(weights)
        hits, all_called = np.cumsum(good, axis=1), np.cumsum(good + bad, axis=1)
        precision = np.where(all_called > 0, hits / np.where(all_called > 0, all_called, 1.0), 0.0)
        return _over((good * precision).sum(axis=1), good.sum(axis=1))

    return area


def brier(p: Numbers, positive: Flags) -> Statistic:
    """Mean squared distance of the probability from the truth (Brier 1950)."""
    return mean((p - positive) ** 2)


def log_loss(own: Numbers) -> Statistic:
    """Mean of -log p of a photo's own class, p bounded by 1e-15."""
    return mean(-np.log(np.clip(own, 1e-15, 1.0)))


def calibration_error(confidence: Numbers, right: Flags, bins: int = BINS) -> Statistic:
    """ECE over bins of equal mass (Naeini et al. 2015; bins as in Nixon et al. 2019), cut anew in each resample."""
    order = np.argsort(confidence, kind="stable")
    gap = (confidence - right)[order]

    def error(weights: Numbers) -> Numbers:
        sorted_weights = weights[:, order]
        total = sorted_weights.sum(axis=1, keepdims=True)
        middle = np.cumsum(sorted_weights, axis=1) - sorted_weights / 2.0
        place = np.minimum((middle / np.maximum(total, 1e-12) * bins).astype(np.intp), bins - 1)
        flat = (place + np.arange(len(weights))[:, None] * bins).ravel()
        sums = np.bincount(flat, weights=(sorted_weights * gap).ravel(), minlength=len(weights) * bins)
        return _over(np.abs(sums.reshape(-1, bins)).sum(axis=1), total[:, 0])

    return error


def equal_mass(values: Numbers, bins: int) -> NDArray[np.intp]:
    """The bin [photos] of each value, so that bins hold equally many photos."""
    place = np.empty(len(values), dtype=np.intp)
    place[np.argsort(values, kind="stable")] = np.arange(len(values)) * bins // len(values)
    return place


def brier_part(p: Numbers, positive: Flags, part: str, bins: int = BINS) -> Statistic:
    """One of Murphy's (1973) parts of the Brier score: reliability - resolution + uncertainty.

    Bins of equal mass, cut once; within them p varies a little, so the parts add up to the score but for that.
    """
    member = np.eye(bins)[equal_mass(p, bins)]

    def value(weights: Numbers) -> Numbers:
        mass = weights @ member
        total, held = mass.sum(axis=1, keepdims=True), np.maximum(mass, 1e-12)
        truth = (weights @ (member * positive[:, None])) / held
        base = (weights @ positive.astype(np.float64))[:, None] / total
        if part == "uncertainty":
            return np.asarray((base * (1.0 - base))[:, 0])
        said = (weights @ (member * p[:, None])) / held
        gap = (said - truth) ** 2 if part == "reliability" else (truth - base) ** 2
        return np.asarray((mass * gap).sum(axis=1) / total[:, 0])

    return value


def risk_area(confidence: Numbers, right: Flags) -> Statistic:
    """AURC: the error among the most confident photos, averaged over all coverages (Geifman et al. 2019)."""
    order = np.argsort(-confidence, kind="stable")
    wrong = (~right[order]).astype(np.float64)

    def area(weights: Numbers) -> Numbers:
        taken = weights[:, order]
        covered = np.cumsum(taken, axis=1)
        risk = np.cumsum(taken * wrong, axis=1) / np.maximum(covered, 1e-12)
        return _over((taken * risk).sum(axis=1), covered[:, -1])

    return area


def risk_at(confidence: Numbers, right: Flags, coverage: float) -> Statistic:
    """The error among the most confident photos that make up this share of all."""
    order = np.argsort(-confidence, kind="stable")
    wrong = (~right[order]).astype(np.float64)

    def risk(weights: Numbers) -> Numbers:
        taken = weights[:, order]
        before = np.cumsum(taken, axis=1) - taken
        wanted = coverage * taken.sum(axis=1, keepdims=True)
        kept = np.clip(wanted - before, 0.0, taken)
        return _over(kept @ wrong, kept.sum(axis=1))

    return risk


def macro_f1(said: NDArray[np.intp], truth: NDArray[np.intp], classes: int) -> Statistic:
    """The mean over classes of each one's F1 against the rest."""
    each = [Counts(said == k, truth == k) for k in range(classes)]

    def value(weights: Numbers) -> Numbers:
        return np.asarray(np.mean([one.f1(weights) for one in each], axis=0))

    return value


def macro_recall(said: NDArray[np.intp], truth: NDArray[np.intp], classes: int) -> Statistic:
    """Balanced accuracy: the mean over classes of the share that is recognised."""
    each = [Counts(said == k, truth == k) for k in range(classes)]

    def value(weights: Numbers) -> Numbers:
        return np.asarray(np.mean([one.sensitivity(weights) for one in each], axis=0))

    return value


def net_benefit(p: Numbers, positive: Flags, threshold: float) -> Statistic:
    """Decision curve (Vickers and Elkin 2006): TP/n - FP/n x t / (1 - t) when p >= t is called."""
    gain = ((p >= threshold) & positive) - ((p >= threshold) & ~positive) * (threshold / (1.0 - threshold))
    return mean(gain.astype(np.float64))


def false_positives_at(scores: Numbers, positive: Flags, sensitivity: float = 0.95) -> Statistic:
    """The least share of negatives above a level that this share of positives reaches: FPR@95TPR."""
    levels = ranked(scores, positive)

    def value(weights: Numbers) -> Numbers:
        good, bad = levels(weights)
        reached = np.cumsum(good, axis=1) >= sensitivity * good.sum(axis=1, keepdims=True) - 1e-9
        first = reached.argmax(axis=1)
        return _over(np.cumsum(bad, axis=1)[np.arange(len(weights)), first], bad.sum(axis=1))

    return value
