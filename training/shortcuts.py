"""Owns the search for what tells the label without the lesion: a mark at a fixed place of the photo, a trait of it.

A network learns whatever goes with the label: a clinic's watermark, the size of photos of one source, a skin tone. A
lesion may be anywhere, so no single place of the photo should tell the label much better than the other places do; and
no disease chooses the tone of a skin or the size of a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.intervals import Measure, Resampling
from training.metrics import auroc

CELLS: Final = 7
AHEAD: Final = 0.15
CHANCE: Final = 0.01
DRAWINGS: Final = 199
TELLS: Final = 0.70  # the low end of the interval above which the area of a trait counts
_SEED: Final = 7

Numbers = NDArray[np.float64]


def cell_features(pixels: NDArray[np.uint8]) -> Numbers:
    """Twelve figures [n, 49, 12] of each of 7 x 7 cells of photos [n, 224, 224, 3], against the photo's middle cell.

    Mean, deviation, 2nd and 98th percentile of brightness, of red against green, and of blue against both.
    """
    found = np.empty((len(pixels), CELLS * CELLS, 12))
    for at, photo in enumerate(pixels):
        red, green, blue = (photo[..., c].astype(np.float64) for c in range(3))
        planes = np.stack([(red + green + blue) / 3.0, red - green, blue - (red + green) / 2.0], axis=-1)
        side = photo.shape[0] // CELLS
        cells = planes[: side * CELLS, : side * CELLS].reshape(CELLS, side, CELLS, side, 3).swapaxes(1, 2)
        flat = cells.reshape(CELLS * CELLS, side * side, 3)
        figures = [flat.mean(axis=1), flat.std(axis=1), *np.percentile(flat, [2.0, 98.0], axis=1)]
        every = np.concatenate(figures, axis=-1)
        found[at] = every - np.median(every, axis=0)
    return found


def places(
    pixels: NDArray[np.uint8], kinds: NDArray[np.int64], folds: NDArray[np.int64], patients: NDArray[Any],
    labels: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """How well each cell alone tells each label (against all others), by ridge regression on other folds' photos.

    Of 49 cells one is always best: it counts if it is further ahead of chance than the best of all cells and labels is
    in 99 of 100 drawings in which whole patients exchange their labels, and well ahead of the middle cell (`typical`).
    """
    drawn = _exchanged(kinds, patients)
    truth = (drawn[:, None, :] == np.arange(len(labels))[None, :, None]).reshape(len(kinds), -1)
    scores = _scores(cell_features(pixels), truth.astype(np.float64), folds)
    areas = _areas(scores, truth).reshape(CELLS * CELLS, len(labels), DRAWINGS + 1)
    by_chance = areas[..., 1:]
    ahead = (areas - by_chance.mean(axis=-1, keepdims=True)) / np.maximum(by_chance.std(axis=-1, keepdims=True), 1e-9)
    best = ahead.reshape(-1, DRAWINGS + 1).max(axis=0)
    cell, at = (int(i) for i in np.unravel_index(int(ahead[..., 0].argmax()), areas.shape[:2]))
    column = at * (DRAWINGS + 1)
    strongest = Resampling.of(patients).measure(auroc(scores[:, cell, column].astype(np.float64), kinds == at))
    typical = float(np.median(areas[:, at, 0]))
    p = float((1 + (best[1:] >= best[0]).sum()) / (DRAWINGS + 1))
    return {
        "cell": cell,
        "row": cell // CELLS + 1,
        "column": cell % CELLS + 1,
        "label": labels[at],
        "strongest": strongest,
        "typical": round(typical, 4),
        "p": round(p, 4),
        "areas": [round(float(value), 4) for value in areas[:, at, 0]],
        "flagged": strongest["value"] is not None and p <= CHANCE and float(areas[cell, at, 0]) > typical + AHEAD,
    }


def _exchanged(kinds: NDArray[np.int64], patients: NDArray[Any]) -> NDArray[np.int64]:
    """The classes [n, 1 + drawings] as they are and with those of whole patients exchanged."""
    _, first, codes = np.unique(patients, return_index=True, return_inverse=True)
    draws = np.random.default_rng(_SEED)
    own = kinds[first]
    return np.stack([kinds, *(draws.permutation(own)[codes] for _ in range(DRAWINGS))], axis=1)


def _scores(features: Numbers, truth: Numbers, folds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores [n, cells, columns] of ridge regressions on standardised figures, each asked about another fold."""
    found = np.empty((len(features), features.shape[1], truth.shape[1]), dtype=np.float32)
    for fold in np.unique(folds):
        test = folds == fold
        target = truth[~test] - truth[~test].mean(axis=0)
        for cell in range(features.shape[1]):
            seen = features[~test, cell]
            mean, scale = seen.mean(axis=0), np.maximum(seen.std(axis=0), 1e-9)
            x = (seen - mean) / scale
            weights = np.linalg.solve(x.T @ x + len(x) * np.eye(x.shape[1]), x.T @ target)
            found[test, cell] = ((features[test, cell] - mean) / scale) @ weights
    return found


def _areas(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> Numbers:
    """The area under the ROC curve [cells, columns], by ranks; ties do not occur among such scores."""
    found = np.empty(scores.shape[1:])
    positives = truth.sum(axis=0)
    below = np.maximum(positives * (len(truth) - positives), 1)
    for cell in range(scores.shape[1]):
        ranks = scores[:, cell].argsort(axis=0).argsort(axis=0) + 1.0
        found[cell] = ((ranks * truth).sum(axis=0) - positives * (positives + 1) / 2.0) / below
    return found


def traits(values: Mapping[str, Numbers], positive: NDArray[np.bool_], sample: Resampling) -> list[dict[str, Any]]:
    """How well each trait that no disease has tells the first label, whichever way round."""
    rows = []
    for name, value in values.items():
        area = float(auroc(value, positive)(np.ones((1, len(value))))[0])
        found = sample.measure(auroc(value if area >= 0.5 else -value, positive))  # noqa: PLR2004 - chance
        rows.append({"trait": name, "auroc": found, "flagged": _tells(found)})
    return rows


def _tells(found: Measure) -> bool:
    return found["low"] is not None and float(found["low"]) > TELLS
