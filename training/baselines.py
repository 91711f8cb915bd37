"""Owns what a network must beat: the commonest class, a photo's colours, and the features that training began with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.runs import TEST, TRAIN, Run

_LEVELS, _CUBE = 16, 4
_STRENGTH: Final = 0.01  # for 2,048 features and a few hundred photos
_ITERATIONS: Final = 2000


@dataclass(frozen=True)
class Baseline:
    """Probabilities [n, classes] for the same out-of-fold photos in the same order as the network's."""

    name: str
    said: str
    p: NDArray[np.float64]


def colours(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Colour histograms [n, 112] of photos [n, h, w, 3]: 16 levels a channel, and a coarse cube of 4 x 4 x 4."""
    found = np.empty((len(pixels), 3 * _LEVELS + _CUBE**3))
    for at, photo in enumerate(pixels):
        flat = photo[::4, ::4].reshape(-1, 3).astype(np.intp)
        parts = [np.bincount(flat[:, c] * _LEVELS // 256, minlength=_LEVELS) for c in range(3)]
        cell = flat * _CUBE // 256
        parts.append(np.bincount(cell @ np.array([_CUBE**2, _CUBE, 1]), minlength=_CUBE**3))
        found[at] = np.concatenate(parts) / len(flat)
    return found


def fitted(
    features: NDArray[np.float64],
    kinds: NDArray[np.int64],
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    classes: int,
) -> NDArray[np.float64]:
    """Probabilities [test, classes] of a regularised logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - two seconds to import
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=_ITERATIONS)
    model.fit(scaler.transform(features[train]), kinds[train])
    p = np.zeros((len(test), classes))
    p[:, model.classes_] = model.predict_proba(scaler.transform(features[test]))
    return p


def baselines(run: Run, seed: int, pixels: NDArray[np.uint8]) -> list[Baseline]:
    """The three baselines on the members' own splits: trained on their train photos, asked about their test photos."""
    members = [member for member in run.members if member.seed == seed]
    classes, histogram = len(run.labels), colours(pixels)

    def over_folds(features: NDArray[np.float64] | None) -> NDArray[np.float64]:
        parts = []
        for member in members:
            train, test = member.rows(TRAIN), member.rows(TEST)
            if features is None:
                part = np.bincount(run.kinds[train], minlength=classes) / len(train)
                parts.append(np.tile(part, (len(test), 1)))
            else:
                parts.append(fitted(features, run.kinds, train, test, classes))
        return np.concatenate(parts)

    return [
        Baseline("majority", "the commonest class, whatever the photo", over_folds(None)),
        Baseline("colour histogram", "logistic regression on 112 shares of colour", over_folds(histogram)),
        Baseline(
            "frozen features",
            "logistic regression on the features that training began with",
            over_folds(run.frozen.astype(np.float64)),
        ),
    ]
