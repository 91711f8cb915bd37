"""Owns what is fitted on validation patients alone: temperature, conformal thresholds, gate and quality limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.novelty import ACCEPTANCE, FITS, RESIDUAL, SAID, limit_of
from worker.inference.answers import QualityLimits, probabilities_of
from worker.inference.preprocess import Quality

ALPHA = 0.1
_NARROW_ENOUGH = 1e-6


def negative_log_likelihood(logits: NDArray[np.float32], kinds: NDArray[np.int64], temperature: float) -> float:
    """Mean of -log p(own class) over photos, at a temperature."""
    chosen = probabilities_of(logits, temperature)[np.arange(len(kinds)), kinds]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())


def fit_temperature(logits: NDArray[np.float32], kinds: NDArray[np.int64]) -> float:
    """The temperature of least negative log-likelihood, by golden section over [0.05, 20] on a log scale.

    A photo of one of the n of its class counts as that class by (n + 1) / (n + classes) and as each other one by
    1 / (n + classes) (Platt 1999): where no photo is called wrongly, likelihood alone would have every answer certain.
    """
    classes = logits.shape[1]
    count = np.bincount(kinds, minlength=classes)[kinds][:, None]
    target = (np.eye(classes)[kinds] + 1.0 / np.maximum(count, 1)) / (1.0 + classes / np.maximum(count, 1))

    def strays(log_temperature: float) -> float:
        p = np.maximum(probabilities_of(logits, math.exp(log_temperature)), 1e-300)
        return float(-(target * np.log(p)).sum(axis=1).mean())

    low, high, ratio = math.log(0.05), math.log(20.0), (math.sqrt(5.0) - 1.0) / 2.0
    while high - low > _NARROW_ENOUGH:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if strays(left) < strays(right):
            high = right
        else:
            low = left
    return round(math.exp((low + high) / 2.0), 4)


def conformal_threshold(own: NDArray[np.float64], alpha: float = ALPHA) -> float:
    """The least probability with which a class enters the prediction set, from the probabilities [n] of its own photos.

    The score is 1 - p; its quantile is the ceil((n + 1)(1 - alpha))-th smallest of n. Rounded down to 6 digits, so
    that rounding never costs coverage; 0 (always in the set) where n is too small for alpha.
    """
    rank = math.ceil((len(own) + 1) * (1.0 - alpha))
    if rank > len(own):
        return 0.0
    score = float(np.sort(1.0 - own)[rank - 1])
    return max(0.0, math.floor((1.0 - score) * 1e6) / 1e6)


def fit_quality_limits(seen: Sequence[Quality]) -> QualityLimits:
    """Limits a good margin outside everything that validation shows; the least size is that of the network's trust."""
    exposure = [q.exposure for q in seen]
    return QualityLimits(
        blur=round(0.6 * min(q.blur for q in seen), 2),
        darkest=round(0.6 * min(exposure), 3),
        brightest=round(1.0 - 0.6 * (1.0 - max(exposure)), 3),
        size=160,
        flat=round(0.6 * min(q.flat for q in seen), 2),
    )


def calibrate(
    labels: Sequence[str],
    logits: NDArray[np.float32],
    kinds: NDArray[np.int64],
    *,
    train_features: NDArray[np.float32],
    train_kinds: NDArray[np.int64],
    features: NDArray[np.float32],
    seen: Sequence[Quality],
    gate_kind: str = RESIDUAL,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `calibration.json` holds beside its identity, and the arrays of the gate."""
    temperature = fit_temperature(logits, kinds)
    probabilities = probabilities_of(logits, temperature)
    thresholds = {label: conformal_threshold(probabilities[kinds == k, k]) for k, label in enumerate(labels)}
    gate = FITS[gate_kind](train_features, train_kinds)
    return {
        "temperature": temperature,
        "alpha": ALPHA,
        "thresholds": thresholds,
        "gate": {"method": SAID[gate_kind], "limit": limit_of(gate, features), "acceptance": ACCEPTANCE},
        "quality_limits": asdict(fit_quality_limits(seen)),
    }, gate  # fmt: skip
