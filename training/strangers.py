"""Owns the measuring of pictures that show no skin: how many the gate turns away, and how many are called positive."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.intervals import Resampling
from training.metrics import Flags, auroc, false_positives_at, share
from training.probes import FAMILIES, probe
from training.served import Served
from training.synthetic import jpeg
from worker.inference.preprocess import Quality, measure_quality, network_input

CHOOSING: Final = 0  # the first number of the probes by which the gate is chosen
REPORTING: Final = 1000  # and of those that the report measures: none is used twice
_SEED: Final = 7


def pictures(first: int, per_family: int) -> tuple[NDArray[np.uint8], list[Quality], list[str]]:
    """Probes as JPEG uploads: network inputs [n, 224, 224, 3], qualities and families."""
    pixels, qualities, families = [], [], []
    for family in FAMILIES:
        for number in range(first, first + per_family):
            with Image.open(io.BytesIO(jpeg(probe(_SEED, family, number)))) as picture:
                pixels.append(network_input(picture))
                qualities.append(measure_quality(picture, shorter_side=min(picture.size)))
            families.append(family)
    return np.stack(pixels), qualities, families


def measure_strangers(
    served: Served, inside: NDArray[np.float64], patients: Sequence[str], per_family: int
) -> list[dict[str, Any]]:
    """One row for all probes and one per family, against the gate's distances [n] of held-out photos of patients.

    AUROC of the distance, the share of probes accepted where 95 % of photos are (FPR@95TPR), the share on which the
    service would abstain for any reason, and the share that it would call positive.
    """
    pixels, qualities, families = pictures(REPORTING, per_family)
    outputs = served.outputs(pixels)
    away = served.rules.gate.distances(outputs.features)
    answers = served.answers(outputs, qualities)
    held = np.array([a.outcome == "abstained" for a in answers])
    positive = np.array([a.outcome == "classified" and a.label == served.bundle.labels[0] for a in answers])
    names = np.array(families)
    rows = []
    for family in ("all", *FAMILIES):
        chosen = np.flatnonzero((names == family) | (family == "all"))
        rows.append(_row(family, inside, patients, away[chosen], held=held[chosen], called=positive[chosen]))
    return rows


def _row(
    family: str,
    inside: NDArray[np.float64],
    patients: Sequence[str],
    away: NDArray[np.float64],
    *,
    held: Flags,
    called: Flags,
) -> dict[str, Any]:
    scores = np.concatenate([away, inside])
    strange = np.arange(len(scores)) < len(away)
    units = np.array([*(f"probe {n}" for n in range(len(away))), *(f"patient {who}" for who in patients)])
    both, alone = Resampling.of(units), Resampling.of(np.arange(len(away)))
    return {
        "family": family,
        "probes": len(away),
        "auroc": both.measure(auroc(scores, strange), photos=len(away)),
        "fpr_at_95_tpr": both.measure(false_positives_at(-scores, ~strange), photos=len(away)),
        "abstained": alone.measure(share(held)),
        "called_positive": alone.measure(share(called)),
    }
