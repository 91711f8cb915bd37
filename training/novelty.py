"""Owns the fitting of the in-distribution gate, and the choice among its three kinds by measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.metrics import auroc
from worker.inference.gate import gate_of

Features = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
COMPONENTS: Final = 64
ACCEPTANCE: Final = 0.95
NEAREST: Final = 5
_MOST_IN_BANK: Final = 2000
_RIDGE: Final = 1e-3
RESIDUAL, MAHALANOBIS, NEIGHBOURS = "residual", "mahalanobis", "neighbours"
SAID: Final = {
    RESIDUAL: f"distance to the first {COMPONENTS} principal components of training features",
    MAHALANOBIS: f"Mahalanobis distance to the nearest class, in {COMPONENTS} principal components",
    NEIGHBOURS: f"distance to the {NEAREST}th nearest training photo, features of length one",
}


def _axes(train: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = train.mean(axis=0, dtype=np.float64)
    _, _, axes = np.linalg.svd(train - mean, full_matrices=False)
    # No more than half as many as there are photos: the whole of a small set's rank would leave no distance.
    return mean, axes[: min(COMPONENTS, max(1, (len(train) - 1) // 2))]


def fit_residual(train: Features, kinds: NDArray[np.int64]) -> Arrays:  # noqa: ARG001 - one signature for all kinds
    """Mean and principal components of training features [n, 2048]."""
    mean, axes = _axes(train)
    return {"mean": mean.astype(np.float32), "components": axes.astype(np.float32)}


def fit_mahalanobis(train: Features, kinds: NDArray[np.int64]) -> Arrays:
    """Class means and the whitening of the covariance that the classes share, with a ridge for small sets."""
    _, axes = _axes(train)
    coordinates = train.astype(np.float64) @ axes.T
    means = {int(k): coordinates[kinds == k].mean(axis=0) for k in np.unique(kinds)}
    within = coordinates - np.stack([means[int(k)] for k in kinds])
    covariance = within.T @ within / max(len(within) - len(means), 1)
    covariance += _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors / np.sqrt(values)) @ vectors.T
    return {
        "whitening": np.asarray(root @ axes, dtype=np.float32),
        "centres": np.stack([root @ mean for mean in means.values()]).astype(np.float32),
    }


def fit_neighbours(train: Features, kinds: NDArray[np.int64]) -> Arrays:  # noqa: ARG001 - one signature for all kinds
    """Training features of length one, thinned evenly to two thousand, and which neighbour counts."""
    kept = np.linspace(0, len(train) - 1, min(len(train), _MOST_IN_BANK)).astype(int)
    bank = train[kept] / np.maximum(np.linalg.norm(train[kept], axis=1, keepdims=True), 1e-12)
    return {"bank": bank.astype(np.float32), "nearest": np.array([min(NEAREST, len(kept))], dtype=np.int64)}


FITS: Final[Mapping[str, Callable[[Features, NDArray[np.int64]], Arrays]]] = {
    RESIDUAL: fit_residual,
    MAHALANOBIS: fit_mahalanobis,
    NEIGHBOURS: fit_neighbours,
}


def limit_of(arrays: Arrays, held_out: Features) -> float:
    """The distance that 95 % of held-out photos stay within."""
    away = np.sort(gate_of(arrays).distances(held_out))
    return round(float(away[math.ceil(ACCEPTANCE * len(away)) - 1]), 6)


def compare(
    train: Features, kinds: NDArray[np.int64], held_out: Features, probes: Features
) -> dict[str, dict[str, float]]:
    """What each kind of gate tells of held-out photos against pictures that show no skin.

    AUROC of the distance, and the share of probes beyond the distance that 95 % of held-out photos stay within.
    """
    found = {}
    for name, fit in FITS.items():
        arrays = fit(train, kinds)
        gate, limit = gate_of(arrays), limit_of(arrays, held_out)
        inside, outside = gate.distances(held_out), gate.distances(probes)
        scores = np.concatenate([outside, inside])
        flags = np.arange(len(scores)) < len(outside)
        area = float(auroc(scores, flags)(np.ones((1, len(scores))))[0])
        found[name] = {"auroc": round(area, 4), "rejected": round(float((outside > limit).mean()), 4)}
    return found


def best_of(compared: Mapping[str, Mapping[str, float]]) -> str:
    """The kind that rejects most probes at equal acceptance; where equal, the larger area, then the order above."""
    return max(
        compared, key=lambda name: (compared[name]["rejected"], compared[name]["auroc"], -list(FITS).index(name))
    )
