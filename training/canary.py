"""Owns the leak canary: with labels drawn at random per patient an honest split learns nothing, a leaking one a lot."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.metrics import auroc

PERMUTATIONS: Final = 5
HONEST: Final = (0.35, 0.65)
LEAKING: Final = 0.80
_COPIES: Final = 4
_SEED: Final = 7


def canary(features: NDArray[np.float64], groups: NDArray[Any], folds: NDArray[np.int64]) -> dict[str, Any]:
    """AUROC of the nearest neighbour on labels that mean nothing, split by group and split after making copies.

    Each group gets a label by lot, five times. `grouped`: neighbours are sought in other folds. `leaking`: every photo
    has four noisy copies (augmentation), and half of all copies are the training set. A grouped figure outside 0.35 to
    0.65 means that folds share something; a leaking one below 0.80 that the canary is deaf on these features.
    """
    scaled = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    names, codes = np.unique(groups, return_inverse=True)
    grouped, leaking = [], []
    for number in range(PERMUTATIONS):
        draws = np.random.default_rng([_SEED, number])
        lots = draws.permutation(np.arange(len(names)) % 2 == 0)[codes]
        grouped.append(_grouped(scaled, lots, folds))
        leaking.append(_leaking(scaled, lots, draws))
    means = {"grouped": float(np.mean(grouped)), "leaking": float(np.mean(leaking))}
    rows = {
        name: {"value": round(means[name], 4), "low": round(min(values), 4), "high": round(max(values), 4),
               "n": PERMUTATIONS}
        for name, values in (("grouped", grouped), ("leaking", leaking))
    }  # fmt: skip
    return {
        **rows,
        "interval": f"mean and range of {PERMUTATIONS} drawings of labels",
        "passed": HONEST[0] <= means["grouped"] <= HONEST[1] and means["leaking"] > LEAKING,
    }


def _area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    return float(auroc(scores, positive)(np.ones((1, len(scores))))[0])


def _vote(seen: NDArray[np.float64], labels: NDArray[np.bool_], asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of positives among the five most alike, weighted by how alike they are."""
    alike = asked @ seen.T
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :5]
    weights = np.exp(10.0 * np.take_along_axis(alike, nearest, axis=1))
    return np.asarray((weights * labels[nearest]).sum(axis=1) / weights.sum(axis=1))


def _grouped(features: NDArray[np.float64], lots: NDArray[np.bool_], folds: NDArray[np.int64]) -> float:
    areas = []
    for fold in np.unique(folds):
        test = folds == fold
        if 0 < lots[test].sum() < test.sum():
            areas.append(_area(_vote(features[~test], lots[~test], features[test]), lots[test]))
    return float(np.mean(areas)) if areas else float("nan")


def _leaking(features: NDArray[np.float64], lots: NDArray[np.bool_], draws: np.random.Generator) -> float:
    noise = 0.3 / np.sqrt(features.shape[1])
    copies = np.concatenate([features + noise * draws.normal(size=features.shape) for _ in range(_COPIES)])
    labels = np.tile(lots, _COPIES)
    train = draws.random(len(labels)) < 0.5  # noqa: PLR2004 - half
    return _area(_vote(copies[train], labels[train], copies[~train]), labels[~train])
