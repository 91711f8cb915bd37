"""Owns the sections that need pictures or a second opinion: subgroups, baselines, errors, gallery."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.heatmap import heatmap_png
from training.baselines import Baseline
from training.comparisons import area_difference, delong, difference, mcnemar
from training.intervals import Resampling
from training.judged import Judged
from training.metrics import Flags, auroc, macro_recall, share
from training.runs import Run
from training.served import Asked, Served

_STAGES: Final = (("stage below 0.4", 0.0, 0.4), ("stage 0.4 to 0.7", 0.4, 0.7), ("stage above 0.7", 0.7, 1.01))
_ENDS: Final = {0: " (lightest)", 5: " (darkest)"}
_CELLS: Final = (("true positive", 0, 0), ("false negative", 0, 1), ("false positive", 1, 0), ("true negative", 1, 1))
PER_CELL: Final = 3
_SHOWN_SIDE: Final = 160


def subgroups(run: Run, judged: Judged) -> list[dict[str, Any]]:
    """Accuracy, sensitivity, specificity and AUROC of every group; those below 20 photos say that it is not enough."""
    rows = []
    for family, name, chosen in _groups(run, judged):
        photos = int(chosen.sum())
        part = judged.at(chosen)
        sample, positive = Resampling.of(part.patients), part.positive
        scarcer = min(int(positive.sum()), int((~positive).sum()))
        called = part.called["p >= 0.5"]
        rows.append({
            "family": family,
            "group": name,
            "photos": photos,
            "patients": len(np.unique(part.patients)),
            "accuracy": sample.measure(share(part.right), photos=photos),
            "sensitivity": sample.measure(share(called, positive), photos=int(positive.sum())),
            "specificity": sample.measure(share(~called, ~positive), photos=int((~positive).sum())),
            "auroc": sample.measure(auroc(part.p[:, 0], positive), photos=scarcer),
        })  # fmt: skip
    return rows


def _groups(run: Run, judged: Judged) -> Iterator[tuple[str, str, Flags]]:
    frame = run.frame.iloc[judged.rows]
    labels = frame["label"].to_numpy()
    for label in sorted(set(labels)):
        yield "label of the data set", str(label), labels == label
    if "tone" in frame:
        tones = frame["tone"].to_numpy()
        for tone in sorted({int(t) for t in tones if t >= 0}):
            yield "skin tone", f"tone {tone}{_ENDS.get(tone, '')}", tones == tone
    if "stage" in frame:
        stages = frame["stage"].to_numpy()
        for name, low, high in _STAGES:
            yield "stage, positives", name, judged.positive & (stages >= low) & (stages < high)
    for figure in ("blur", "exposure", "size"):
        values = np.array([getattr(run.qualities[row], figure) for row in judged.rows], dtype=np.float64)
        low, high = np.quantile(values, [1 / 3, 2 / 3])
        if low < high:
            for name, chosen in (("lowest", values <= low), ("highest", values > high)):
                yield "quality", f"{name} third of {figure}", chosen


def baseline_rows(judged: Judged, baselines: Sequence[Baseline], sample: Resampling) -> dict[str, Any]:
    """Each baseline's figures, the difference to the network, and whether the network beats it."""
    classes, rows = judged.p.shape[1], []
    for baseline in baselines:
        said = baseline.p.argmax(axis=1)
        right = said == judged.kinds
        ahead = area_difference(judged.p[:, 0], baseline.p[:, 0], judged.positive, sample)
        rows.append({
            "name": baseline.name,
            "said": baseline.said,
            "auroc": sample.measure(auroc(baseline.p[:, 0], judged.positive)),
            "accuracy": sample.measure(share(right)),
            "balanced_accuracy": sample.measure(macro_recall(said, judged.kinds, classes)),
            "auroc_difference": ahead,
            "accuracy_difference": difference_of(judged, right, sample),
            "delong": delong(judged.p[:, 0], baseline.p[:, 0], judged.positive, judged.patients),
            "mcnemar": mcnemar(judged.right, right),
            "beaten": bool(ahead["low"] is not None and ahead["low"] > 0.0),
        })  # fmt: skip
    unbeaten = [str(row["name"]) for row in rows if not row["beaten"]]
    statement = (
        "The network's AUROC is above that of every baseline, intervals of the differences included."
        if not unbeaten
        else f"The network is NOT shown to beat: {', '.join(unbeaten)}. The interval of the difference reaches zero."
    )
    return {"statement": statement, "rows": rows}


def difference_of(judged: Judged, right: Flags, sample: Resampling) -> dict[str, Any]:
    """The network's accuracy minus another's, on the same resamples."""
    return difference(share(judged.right), share(right), sample)


def errors(run: Run, judged: Judged) -> list[dict[str, Any]]:
    """Every patient with a photo that was called wrongly, those with most such photos first."""
    found = []
    names = run.frame["image"].to_numpy()
    for patient in np.unique(judged.patients[~judged.right]):
        mine = np.flatnonzero(judged.patients == patient)
        wrong = [int(i) for i in mine if not judged.right[i]]
        found.append({
            "patient": str(patient),
            "truth": run.labels[judged.kinds[wrong[0]]],
            "fold": int(judged.folds[wrong[0]]),
            "photos": len(mine),
            "wrong": [
                {
                    "image": str(names[judged.rows[i]]),
                    "called": run.labels[judged.said[i]],
                    "p": round(float(judged.p[i].max()), 4),
                    "abstained": judged.answers[i].outcome == "abstained",
                }
                for i in wrong
            ],
        })  # fmt: skip
    return sorted(found, key=lambda row: (-len(row["wrong"]), row["patient"]))


def gallery(served: Served, asked: Asked, names: Sequence[str], *, with_photos: bool) -> list[dict[str, Any]]:
    """Photos of each cell of the two-way table, those whose certainty is closest to the cell's median.

    A rule, not a choice: so nobody can pick the pretty ones. Photographs of people are left out unless asked for; the
    evidence map then stands alone.
    """
    p, shown = served.probabilities(asked.outputs), []
    called, truth = (p[:, 0] < 0.5).astype(int), (asked.kinds != 0).astype(int)  # noqa: PLR2004 - the middle
    for cell, is_negative, called_negative in _CELLS:
        mine = np.flatnonzero((truth == is_negative) & (called == called_negative))
        middle = np.median(p[mine, 0]) if len(mine) else 0.0
        for at in sorted(mine, key=lambda i: (abs(p[i, 0] - middle), i))[:PER_CELL]:
            layer = heatmap_png([float(v) for v in asked.outputs.evidence[at].reshape(-1)], _SHOWN_SIDE, _SHOWN_SIDE)
            shown.append({
                "cell": cell,
                "image": str(names[int(at)]),
                "p": round(float(p[at, 0]), 4),
                "photo": _jpeg(asked.pixels[at]) if with_photos else None,
                "layer": base64.b64encode(layer).decode(),
            })  # fmt: skip
    return shown


def _jpeg(photo: NDArray[np.uint8]) -> str:
    held = io.BytesIO()
    Image.fromarray(photo).resize((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.LANCZOS).save(held, "JPEG", quality=82)
    return base64.b64encode(held.getvalue()).decode()
