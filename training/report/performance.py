"""Owns the sections that are computed from out-of-fold answers alone: folds, pooled, operating points, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training import curves
from training.intervals import Measure, Resampling
from training.judged import Judged
from training.metrics import (
    Counts,
    Statistic,
    auroc,
    average_precision,
    brier,
    brier_part,
    calibration_error,
    log_loss,
    macro_f1,
    macro_recall,
    risk_area,
    risk_at,
    share,
)

PREVALENCES: Final = (0.01, 0.05, 0.20, 0.45)
METRICS: Final = (
    "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv_1", "ppv_5", "ppv_20", "ppv_45",
    "npv_1", "npv_5", "npv_20", "npv_45", "f1", "mcc", "auroc", "auprc", "brier", "log_loss", "ece",
)  # fmt: skip
COVERAGES: Final = (1.0, 0.9, 0.8, 0.7)
BINARY: Final = 2


def statistics(judged: Judged) -> dict[str, Statistic]:
    """Every metric of the table; decisions at p >= 0.5 for the positive class, accuracy over all classes."""
    p, positive = judged.p[:, 0], judged.positive
    table, classes = Counts(judged.called["p >= 0.5"], positive), judged.p.shape[1]
    found: dict[str, Statistic] = {
        "accuracy": share(judged.right),
        "balanced_accuracy": macro_recall(judged.said, judged.kinds, classes),
        "sensitivity": table.sensitivity,
        "specificity": table.specificity,
        **{f"ppv_{100 * at:.0f}": table.ppv(at) for at in PREVALENCES},
        **{f"npv_{100 * at:.0f}": table.npv(at) for at in PREVALENCES},
        "f1": table.f1 if classes == BINARY else macro_f1(judged.said, judged.kinds, classes),
        "mcc": table.mcc,
        "auroc": auroc(p, positive),
        "auprc": average_precision(p, positive),
        "brier": brier(p, positive),
        "log_loss": log_loss(judged.own),
        "ece": calibration_error(judged.p.max(axis=1), judged.right),
    }
    return {name: found[name] for name in METRICS}


def measured(judged: Judged, sample: Resampling | None = None) -> dict[str, Measure]:
    """Every metric with its interval."""
    drawn = sample or judged.sample()
    return {name: drawn.measure(statistic) for name, statistic in statistics(judged).items()}


def per_fold(by_seed: Mapping[int, Judged]) -> dict[str, Any]:
    """Each network on the photos it did not see, and the same pooled for each seed; none is called the best."""
    rows = []
    for seed, judged in by_seed.items():
        for fold in sorted({int(f) for f in judged.folds}):
            part = judged.at(judged.folds == fold)
            rows.append({"fold": fold, "seed": seed, "photos": len(part.rows),
                         "patients": len(np.unique(part.patients)), "metrics": measured(part)})  # fmt: skip
    return {"members": rows, "seeds": [{"seed": seed, "metrics": measured(j)} for seed, j in by_seed.items()]}


def pooled(judged: Judged, labels: Sequence[str], sample: Resampling) -> dict[str, Any]:
    """All out-of-fold photos together, and each class on its own."""
    classes = []
    for at, label in enumerate(labels):
        table = Counts(judged.said == at, judged.kinds == at)
        mine = int((judged.kinds == at).sum())
        classes.append({"label": label, "photos": mine, "recall": sample.measure(table.sensitivity, photos=mine),
                        "f1": sample.measure(table.f1, photos=mine),
                        "auroc": sample.measure(auroc(judged.p[:, at], judged.kinds == at), photos=mine)})  # fmt: skip
    return {
        "photos": len(judged.rows),
        "patients": sample.many,
        "metrics": measured(judged, sample),
        "classes": classes,
    }


def operating(judged: Judged, sample: Resampling) -> list[dict[str, Any]]:
    """Sensitivity and specificity where the threshold was set on validation patients."""
    rows = []
    for name, called in judged.called.items():
        table = Counts(called, judged.positive)
        rows.append({
            "point": name,
            "thresholds": {str(fold): level for fold, level in judged.thresholds[name].items()},
            "sensitivity": sample.measure(table.sensitivity),
            "specificity": sample.measure(table.specificity),
            "called_positive": sample.measure(share(called)),
            **{f"ppv_{100 * at:.0f}": sample.measure(table.ppv(at)) for at in PREVALENCES},
            **{f"npv_{100 * at:.0f}": sample.measure(table.npv(at)) for at in PREVALENCES},
        })  # fmt: skip
    return rows


def plots(judged: Judged, labels: Sequence[str], sample: Resampling) -> dict[str, Any]:
    """The points of every curve, and the confusion matrix with the share of each row."""
    p, positive = judged.p[:, 0], judged.positive
    counts = [
        [int(((judged.kinds == i) & (judged.said == j)).sum()) for j in range(len(labels))] for i in range(len(labels))
    ]
    return {
        "roc": curves.roc(p, positive, sample),
        "precision_recall": curves.precision_recall(p, positive, sample),
        "reliability": curves.reliability(p, positive, sample),
        "histogram": curves.histogram(p, positive),
        "decision": curves.decision(p, positive, sample),
        "coverage_risk": curves.coverage_risk(judged.p.max(axis=1), judged.right, sample),
        "confusion": {
            "labels": list(labels),
            "counts": counts,
            "shares": [
                [
                    sample.measure(share(judged.said == j, judged.kinds == i), photos=sum(counts[i]))
                    for j in range(len(labels))
                ]
                for i in range(len(labels))
            ],
        },
    }


def calibration(judged: Judged, sample: Resampling) -> dict[str, Any]:
    """What temperature scaling does to out-of-fold probabilities, and Murphy's parts of the Brier score after it."""
    positive, found = judged.positive, {}
    for name, p in (("before", judged.raw), ("after", judged.p)):
        right = p.argmax(axis=1) == judged.kinds
        found[name] = {
            "ece": sample.measure(calibration_error(p.max(axis=1), right)),
            "brier": sample.measure(brier(p[:, 0], positive)),
            "log_loss": sample.measure(log_loss(p[np.arange(len(p)), judged.kinds])),
        }
    parts = {
        part: sample.measure(brier_part(judged.p[:, 0], positive, part))
        for part in ("reliability", "resolution", "uncertainty")
    }
    return {**found, "brier_parts": parts, "temperatures": {str(k): v for k, v in judged.temperatures.items()}}


def abstention(judged: Judged, labels: Sequence[str], sample: Resampling) -> dict[str, Any]:
    """What is left once the service abstains: coverage of the prediction sets, shares, and the error among the rest."""
    sets = [set(answer.prediction_set) for answer in judged.answers]
    covered = np.array([labels[k] in said for k, said in zip(judged.kinds, sets, strict=True)])
    classified = np.array([answer.outcome == "classified" for answer in judged.answers])
    called, confidence = judged.said == 0, judged.p.max(axis=1)
    classes = []
    for at, label in enumerate(labels):
        mine = judged.kinds == at
        sizes = np.bincount([len(sets[i]) for i in np.flatnonzero(mine)], minlength=len(labels) + 1)
        classes.append({"label": label, "photos": int(mine.sum()), "sizes": [int(s) for s in sizes],
                        "coverage": sample.measure(share(covered, mine), photos=int(mine.sum()))})  # fmt: skip
    reasons = [reason for answer in judged.answers for reason in answer.reasons]
    return {
        "aurc": sample.measure(risk_area(confidence, judged.right)),
        "risk_at_coverage": [
            {"coverage": at, "risk": sample.measure(risk_at(confidence, judged.right, at))} for at in COVERAGES
        ],
        "coverage": sample.measure(share(covered)),
        "nominal_coverage": 0.9,
        "single_label": sample.measure(share(np.array([len(said) == 1 for said in sets]))),
        "accepted": sample.measure(share(np.array([answer.in_distribution for answer in judged.answers]))),
        "classified": sample.measure(share(classified)),
        **{
            name: sample.measure(share(flags, among & classified), photos=int((among & classified).sum()))
            for name, flags, among in (
                ("accuracy_when_classified", judged.right, np.ones(len(called), dtype=bool)),
                ("sensitivity_when_classified", called, judged.positive),
                ("specificity_when_classified", ~called, ~judged.positive),
            )
        },
        "classes": classes,
        "reasons": {name: reasons.count(name) for name in sorted(set(reasons))},
    }


def shares_of(kinds: NDArray[np.int64], labels: Sequence[str]) -> dict[str, int]:
    """How many photos each label has."""
    return {label: int((kinds == at).sum()) for at, label in enumerate(labels)}
