"""Owns the controls of the evidence map: does it point at what the answer rests on, and at what was learnt at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.intervals import Measure, Resampling
from training.metrics import auroc, mean, share
from training.served import Asked, Served, exact_engine, run
from worker.inference.engine import Outputs
from worker.inference.preprocess import SIDE

CELLS: Final = 7
MASKED: Final = 10  # of 49 cells
_SMEARED: Final = 24.0
_SEED: Final = 7


def covered(pixels: NDArray[np.uint8], cells: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Photos [n, 224, 224, 3] with the given cells [n, k] of their 7 x 7 smeared beyond recognition."""
    step, changed = SIDE // CELLS, pixels.copy()
    for at, photo in enumerate(pixels):
        smeared = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(_SMEARED)))
        for cell in cells[at]:
            down, across = step * (int(cell) // CELLS), step * (int(cell) % CELLS)
            changed[at, down : down + step, across : across + step] = smeared[
                down : down + step, across : across + step
            ]
    return changed


def toward_answer(outputs: Outputs) -> NDArray[np.float64]:
    """Evidence [n, 49] for what each photo was called: the map itself, or its negative where it was not the first."""
    sign = np.where(outputs.logits.argmax(axis=1) == 0, 1.0, -1.0)
    return np.asarray(outputs.evidence.reshape(len(sign), -1).astype(np.float64) * sign[:, None])


def controls(served: Served, asked: Asked, cache: Path) -> dict[str, Any]:
    """The controls of the evidence map on photos that the network did not learn from.

    1. Deletion: the probability of the answer after its ten strongest cells are covered, against ten at random.
    2. Masked lesions: the area under the ROC curve once those cells are covered; high means that the answer does not
       need what the map points at.
    3. Random weights (Adebayo et al. 2018): correlation of the maps with those of a network of shuffled kernels.
    """
    pixels, outputs, positive = asked.pixels, asked.outputs, asked.kinds == 0
    sample, p, said = Resampling.of(asked.patients), served.probabilities(outputs), outputs.logits.argmax(axis=1)
    rows, evidence = np.arange(len(said)), toward_answer(outputs)
    draws = np.random.default_rng(_SEED)
    by_chance = np.stack([draws.permutation(CELLS * CELLS)[:MASKED] for _ in rows])
    strongest = np.argsort(-evidence, axis=1, kind="stable")[:, :MASKED]
    after = served.probabilities(served.outputs(covered(pixels, strongest)))
    chance = served.probabilities(served.outputs(covered(pixels, by_chance)))
    drop, drop_by_chance = (p[rows, said] - other[rows, said] for other in (after, chance))
    return {
        "photos": len(said),
        "cells": MASKED,
        "drop_strongest": sample.measure(mean(drop)),
        "drop_random": sample.measure(mean(drop_by_chance)),
        "drop_difference": sample.measure(mean(drop - drop_by_chance)),
        "strongest_matter_more": sample.measure(share(drop > drop_by_chance)),
        "auroc_uncovered": sample.measure(auroc(p[:, 0], positive)),
        "auroc_covered": sample.measure(auroc(after[:, 0], positive)),
        "random_weights": _random_weights(served, pixels, evidence, sample, cache),
    }


def against_masks(served: Served, asked: Asked, masks: NDArray[np.bool_]) -> dict[str, Any]:
    """The evidence map against the lesions themselves [n, 224, 224], where these are known.

    Share of the evidence for the answer that lies on lesions, and the share that evidence spread evenly would have
    there (of photos with lesions); the area under the ROC curve with every lesion painted over in the colour of the
    skin around.
    """
    pixels = asked.pixels
    cells = _by_cell(masks.astype(np.float64))
    evidence = np.maximum(toward_answer(asked.outputs), 0.0)
    total, chance = evidence.sum(axis=1), cells.mean(axis=1)
    inside = (evidence * cells).sum(axis=1) / np.maximum(total, 1e-12)
    counted = (total > 0.0) & (chance > 0.0)
    sample, photos = Resampling.of(asked.patients), int(counted.sum())
    painted = pixels.copy()
    for at, mask in enumerate(masks):
        if mask.any() and not mask.all():
            painted[at][mask] = np.median(pixels[at][~mask], axis=0).astype(np.uint8)
    p = served.probabilities(served.outputs(painted))
    return {
        "photos": photos,
        "inside": sample.measure(mean(inside, counted), photos=photos),
        "chance": sample.measure(mean(chance, counted), photos=photos),
        "difference": sample.measure(mean(inside - chance, counted), photos=photos),
        "auroc_lesions_painted_over": sample.measure(auroc(p[:, 0], asked.kinds == 0)),
    }


def reliance(served: Served, asked: Asked, cell: int) -> Measure:
    """How far the answer follows one cell: the change of p(first label) towards the class whose cell is pasted in.

    Each photo of the first label gets the cell of a photo of another, and the reverse; 0 is no reliance, 1 all.
    """
    pixels, kinds = asked.pixels, asked.kinds
    first, others = np.flatnonzero(kinds == 0), np.flatnonzero(kinds != 0)
    step = SIDE // CELLS
    down, across = step * (cell // CELLS), step * (cell % CELLS)
    window = np.s_[down : down + step, across : across + step]
    pasted = pixels.copy()
    for at, kind in enumerate(kinds):
        donors = others if kind == 0 else first
        if len(donors):
            pasted[at][window] = pixels[donors[at % len(donors)]][window]
    before, after = (served.probabilities(said)[:, 0] for said in (asked.outputs, served.outputs(pasted)))
    return Resampling.of(asked.patients).measure(mean(np.where(kinds == 0, before - after, after - before)))


def _by_cell(masks: NDArray[np.float64]) -> NDArray[np.float64]:
    step = SIDE // CELLS
    return np.asarray(masks.reshape(len(masks), CELLS, step, CELLS, step).mean(axis=(2, 4)).reshape(len(masks), -1))


def _random_weights(
    served: Served, pixels: NDArray[np.uint8], evidence: NDArray[np.float64], sample: Resampling, cache: Path
) -> Measure:
    draws = np.random.default_rng(_SEED)
    shuffled = {
        name: draws.permutation(value.reshape(-1)).reshape(value.shape).astype(np.float32)
        if name.endswith("kernel")
        else value
        for name, value in served.weights.items()
    }
    other = toward_answer(run(exact_engine(shuffled, pixels[:8], cache), pixels))
    return sample.measure(mean(np.abs(np.array([_correlation(a, b) for a, b in zip(evidence, other, strict=True)]))))


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    a, b = one - one.mean(), other - other.mean()
    below = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / below if below > 0 and np.isfinite(below) else 0.0
