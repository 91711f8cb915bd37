"""Owns the figures of a card, each with its interval, on patients that neither training nor calibration saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.learning import auc
from worker.inference.answers import Answer

RESAMPLES = 2000
Numbers = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp]], float]


def expected_calibration_error(confidence: Numbers, right: NDArray[np.bool_], bins: int = 15) -> float:
    """ECE over bins of equal mass (Naeini et al. 2015; bins as in Nixon et al. 2019)."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), bins)
    return float(sum(len(p) * abs(confidence[p].mean() - right[p].mean()) for p in parts if len(p)) / len(confidence))


def with_interval(statistic: Statistic, patients: NDArray[np.int64], *, seed: int = 7) -> dict[str, float]:
    """A statistic of photos (given by index) with its 95 % interval from resampling whole patients.

    Photos of one patient resemble each other: resampling photos would make every interval too narrow.
    """
    draws = np.random.default_rng(seed)
    groups = [np.flatnonzero(patients == who) for who in np.unique(patients)]
    found = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([groups[at] for at in draws.integers(0, len(groups), len(groups))])
        value = statistic(chosen)
        if np.isfinite(value):
            found.append(value)
    low, high = np.percentile(found, [2.5, 97.5])
    return {
        "value": round(statistic(np.arange(len(patients))), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def _share(flags: NDArray[np.bool_], among: NDArray[np.bool_] | None = None) -> Statistic:
    def share(at: NDArray[np.intp]) -> float:
        kept = at if among is None else at[among[at]]
        return float(flags[kept].mean()) if len(kept) else float("nan")

    return share


def evaluate(answers: Sequence[Answer], kinds: NDArray[np.int64], patients: NDArray[np.int64]) -> dict[str, Any]:
    """The metrics of answers about photos of known class (0 positive), each with a patient-level interval."""
    labels = list(answers[0].probabilities)
    p = np.array([[a.probabilities[label] for label in labels] for a in answers])
    positive, right = kinds == 0, p.argmax(axis=1) == kinds
    classified = np.array([a.outcome == "classified" for a in answers])
    covered = np.array([labels[k] in a.prediction_set for a, k in zip(answers, kinds, strict=True)])
    single = np.array([len(a.prediction_set) == 1 for a in answers])
    accepted = np.array([a.in_distribution for a in answers])
    called = p.argmax(axis=1) == 0
    statistics: dict[str, Statistic] = {
        "auc": lambda at: auc(p[at, 0], positive[at]) if 0 < positive[at].sum() < len(at) else float("nan"),
        "accuracy": _share(right),
        "sensitivity": _share(called, positive),
        "specificity": _share(~called, ~positive),
        "ece": lambda at: expected_calibration_error(p[at].max(axis=1), right[at]),
        "brier": lambda at: float(((p[at, 0] - positive[at]) ** 2).mean()),
        "coverage": _share(covered),
        "coverage_positive": _share(covered, positive),
        "coverage_negative": _share(covered, ~positive),
        "single_label": _share(single),
        "acceptance": _share(accepted),
        "classified": _share(classified),
        "accuracy_when_classified": _share(right, classified),
        "sensitivity_when_classified": _share(called, positive & classified),
        "specificity_when_classified": _share(~called, ~positive & classified),
    }
    figures = {name: with_interval(statistic, patients) for name, statistic in statistics.items()}
    return {"photos": len(answers), "patients": len(np.unique(patients)), **figures}


def subgroups(
    answers: Sequence[Answer], kinds: NDArray[np.int64], stages: Numbers, tones: NDArray[np.int64]
) -> dict[str, Any]:
    """Sensitivity by stage of the disease and accuracy by skin tone, each with its number of photos."""
    first = next(iter(answers[0].probabilities))
    called = np.array([a.label == first for a in answers])
    right = called == (kinds == 0)
    bands = (("below 0.4", 0.0, 0.4), ("0.4 to 0.7", 0.4, 0.7), ("above 0.7", 0.7, 1.1))
    by_stage = {name: (kinds == 0) & (stages >= low) & (stages < high) for name, low, high in bands}
    by_tone = {str(tone): tones == tone for tone in sorted({int(t) for t in tones})}
    return {
        "sensitivity_by_stage": {
            n: {"photos": int(m.sum()), "value": round(float(called[m].mean()), 4)} for n, m in by_stage.items()
        },
        "accuracy_by_tone": {
            n: {"photos": int(m.sum()), "value": round(float(right[m].mean()), 4)} for n, m in by_tone.items()
        },
    }


def abstention(answers: Sequence[Answer], families: Sequence[str]) -> dict[str, Any]:
    """How many of the probes that show no skin are abstained on, in all and by family, and called positive."""
    held = np.array([a.outcome == "abstained" for a in answers])
    gated = np.array([not a.in_distribution for a in answers])
    names = np.array(families)
    first = next(iter(answers[0].probabilities))
    return {
        "probes": len(answers),
        "abstained": round(float(held.mean()), 4),
        "out_of_distribution": round(float(gated.mean()), 4),
        "classified_positive": int(sum(a.outcome == "classified" and a.label == first for a in answers)),
        "by_family": {name: round(float(held[names == name].mean()), 4) for name in dict.fromkeys(families)},
    }
