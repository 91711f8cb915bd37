"""Owns the points of the report's curves, each with the band in which 95 % of the resamples lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.intervals import Resampling, shown
from training.metrics import Flags, Numbers, equal_mass, mean, net_benefit, ranked, risk_at

Curve = list[dict[str, Any]]
GRID = np.round(np.linspace(0.0, 1.0, 51), 4)
COVERAGES = np.round(np.linspace(0.1, 1.0, 19), 4)
DECISIONS = np.round(np.arange(0.02, 0.81, 0.02), 4)
RELIABILITY_BINS = 10


def _bands(x: Sequence[float] | Numbers, points: Numbers, values: Numbers) -> Curve:
    """One row per x from points [x] and resampled values [resamples, x]."""
    low, high = np.nanpercentile(values, [2.5, 97.5], axis=0)
    return [
        {"x": shown(a), "y": shown(b), "low": shown(c), "high": shown(d)}
        for a, b, c, d in zip(x, points, low, high, strict=True)
    ]


def _on_grid(curve: Callable[[Numbers], Numbers], photos: int, sample: Resampling) -> tuple[Numbers, Numbers]:
    points = curve(np.ones((1, photos)))[0]
    rows = max(1, 2_000_000 // max(photos, 1))
    blocks = [
        curve(sample.counts[at : at + rows][:, sample.patients].astype(np.float64))
        for at in range(0, len(sample.counts), rows)
    ]
    return points, np.concatenate(blocks)


def roc(scores: Numbers, positive: Flags, sample: Resampling) -> Curve:
    """Sensitivity (y) over 1 - specificity (x)."""
    levels = ranked(scores, positive)

    def curve(weights: Numbers) -> Numbers:
        good, bad = levels(weights)
        tpr = np.cumsum(good, axis=1) / np.maximum(good.sum(axis=1, keepdims=True), 1e-12)
        fpr = np.cumsum(bad, axis=1) / np.maximum(bad.sum(axis=1, keepdims=True), 1e-12)
        return np.stack([np.where(fpr <= x + 1e-9, tpr, 0.0).max(axis=1) for x in GRID], axis=1)

    return _bands(GRID, *_on_grid(curve, len(scores), sample))


def precision_recall(scores: Numbers, positive: Flags, sample: Resampling) -> Curve:
    """Precision (y) at the first level that reaches a recall (x)."""
    levels = ranked(scores, positive)
    wanted = GRID[1:]

    def curve(weights: Numbers) -> Numbers:
        good, bad = levels(weights)
        hits, called = np.cumsum(good, axis=1), np.cumsum(good + bad, axis=1)
        recall = hits / np.maximum(hits[:, -1:], 1e-12)
        precision = hits / np.maximum(called, 1e-12)
        rows = np.arange(len(weights))
        return np.stack([precision[rows, (recall >= x - 1e-9).argmax(axis=1)] for x in wanted], axis=1)

    return _bands(wanted, *_on_grid(curve, len(scores), sample))


def reliability(p: Numbers, positive: Flags, sample: Resampling) -> Curve:
    """Share of positives (y) over the mean probability (x) in ten bins of equal mass."""
    bins = equal_mass(p, min(RELIABILITY_BINS, max(1, len(p) // 5)))
    rows: Curve = []
    for number in range(int(bins.max()) + 1):
        inside = bins == number
        statistic = mean(positive.astype(np.float64), inside)
        values = sample.values(statistic)
        [row] = _bands([float(p[inside].mean())], np.array([sample.point(statistic)]), values[:, None])
        rows.append({**row, "n": int(inside.sum())})
    return rows


def coverage_risk(confidence: Numbers, right: Flags, sample: Resampling) -> Curve:
    """Error (y) among the most confident photos that make up a share (x) of all."""
    rows: Curve = []
    for coverage in COVERAGES:
        statistic = risk_at(confidence, right, float(coverage))
        rows += _bands([coverage], np.array([sample.point(statistic)]), sample.values(statistic)[:, None])
    return rows


def decision(p: Numbers, positive: Flags, sample: Resampling) -> Curve:
    """Net benefit (y) over the threshold (x), with that of calling everyone positive beside it."""
    base = float(positive.mean())
    rows: Curve = []
    for threshold in DECISIONS:
        statistic = net_benefit(p, positive, float(threshold))
        [row] = _bands([threshold], np.array([sample.point(statistic)]), sample.values(statistic)[:, None])
        rows.append({**row, "all": shown(base - (1.0 - base) * threshold / (1.0 - threshold))})
    return rows


def histogram(p: Numbers, positive: Flags, bins: int = 20) -> Curve:
    """How many positives and negatives lie in each twentieth of the probability (x: its lower end)."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    yes, no = (np.histogram(p[flags], edges)[0] for flags in (positive, ~positive))
    return [
        {"x": shown(x), "positive": int(a), "negative": int(b)} for x, a, b in zip(edges[:-1], yes, no, strict=True)
    ]
