"""Owns the rules by which the network's numbers become an answer, or an abstention with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from shared.bundle import GATE, Bundle
from worker.inference.engine import Outputs
from worker.inference.gate import Gate, gate_of
from worker.inference.preprocess import Quality

AMBIGUOUS = "ambiguous"
NO_LABEL_FITS = "no_label_fits"
OUT_OF_DISTRIBUTION = "out_of_distribution"
BLURRED = "blurred"
TOO_DARK = "too_dark"
TOO_BRIGHT = "too_bright"
TOO_SMALL = "too_small"
FLAT_FRAME = "flat_frame"
# Digits of what is published. Decisions are taken on the rounded numbers, so that anyone can retrace them.
_DIGITS, _EVIDENCE_DIGITS = 6, 4


@dataclass(frozen=True)
class QualityLimits:
    """The least (or most) that a photo's quality may be; units as in Quality."""

    blur: float
    darkest: float
    brightest: float
    size: int
    flat: float


@dataclass(frozen=True)
class Calibration:
    """What turns logits into decisions: see `training.calibration` for how each is fitted.

    thresholds: per label the least calibrated probability with which it enters the prediction set; gate_limit: the
    largest distance that the gate may tell of a photo that is in distribution.
    """

    labels: tuple[str, ...]
    temperature: float
    thresholds: Mapping[str, float]
    gate: Gate
    gate_limit: float
    limits: QualityLimits

    @classmethod
    def of(cls, bundle: Bundle, precision: str = "f32") -> Calibration:
        """What a verified bundle stores for this precision: int8 has a calibration of its own."""
        stored = fitted_for(bundle, precision)
        return cls(
            labels=bundle.labels,
            temperature=float(stored["temperature"]),
            thresholds={label: float(stored["thresholds"][label]) for label in bundle.labels},
            gate=gate_of(load_file(bundle.file(GATE))),
            gate_limit=float(stored["gate"]["limit"]),
            limits=QualityLimits(**stored["quality_limits"]),
        )


@dataclass(frozen=True)
class Answer:
    """What is said about one photo. `label` is the most probable one, also when the outcome is "abstained"."""

    outcome: Literal["classified", "abstained"]
    label: str
    probabilities: dict[str, float]
    thresholds: dict[str, float]
    prediction_set: list[str]
    reasons: list[str]
    quality: dict[str, float]
    in_distribution: bool
    evidence: list[float]


def fitted_for(bundle: Bundle, precision: str) -> Mapping[str, Any]:
    """A bundle's calibration, with what was fitted for this precision in the place of what float32 has."""
    stored: Mapping[str, Any] = bundle.calibration
    own: Mapping[str, Any] = stored.get("int8", {}).get("calibration", {}) if precision == "int8" else {}
    gate = {**stored["gate"], **({"limit": own["gate_limit"]} if "gate_limit" in own else {})}
    return {**stored, **own, "gate": gate}


def temperature_of(bundle: Bundle, precision: str) -> float:
    """The temperature that this precision's logits are divided by."""
    return float(fitted_for(bundle, precision)["temperature"])


def probabilities_of(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Calibrated probabilities [n, classes]: the softmax of logits / temperature (Guo et al. 2017)."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    odds = np.exp(scaled)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def quality_reasons(quality: Quality, limits: QualityLimits) -> list[str]:
    """Why a photo is unfit to be judged; empty for a fit one."""
    checks = (
        (TOO_SMALL, quality.size < limits.size),
        (TOO_DARK, quality.exposure < limits.darkest),
        (TOO_BRIGHT, quality.exposure > limits.brightest),
        (FLAT_FRAME, quality.flat < limits.flat),
        (BLURRED, quality.blur < limits.blur),
    )
    return [reason for reason, fails in checks if fails]


def answers_from(outputs: Outputs, quality: Sequence[Quality], calibration: Calibration) -> list[Answer]:
    """One answer per photo, in order.

    A class-conditional conformal prediction set (Vovk 2012) holds each label whose calibrated probability reaches its
    threshold. The answer abstains unless that set holds the most probable label and no other, the photo is in
    distribution and its quality suffices. Raises FloatingPointError where the network's numbers are not finite: no
    answer is made of them.
    """
    if not (
        np.isfinite(outputs.logits).all()
        and np.isfinite(outputs.features).all()
        and np.isfinite(outputs.evidence).all()
    ):
        raise FloatingPointError("the network returned numbers that are not finite")
    probabilities = probabilities_of(outputs.logits, calibration.temperature)
    away = calibration.gate.distances(outputs.features)
    return [
        _answer(probabilities[at], float(away[at]), outputs.evidence[at], quality[at], calibration)
        for at in range(len(probabilities))
    ]


def _answer(
    probabilities: NDArray[np.float64],
    away: float,
    evidence: NDArray[np.float32],
    quality: Quality,
    calibration: Calibration,
) -> Answer:
    shown = {label: round(float(p), _DIGITS) for label, p in zip(calibration.labels, probabilities, strict=True)}
    fitting = [label for label in calibration.labels if shown[label] >= calibration.thresholds[label]]
    in_distribution = away <= calibration.gate_limit
    reasons = quality_reasons(quality, calibration.limits)
    if not in_distribution:
        reasons.append(OUT_OF_DISTRIBUTION)
    label = calibration.labels[int(probabilities.argmax())]
    if fitting != [label]:
        # Also where thresholds differ so much that only the less probable label fits: it must not be called either.
        reasons.append(AMBIGUOUS if fitting else NO_LABEL_FITS)
    return Answer(
        outcome="abstained" if reasons else "classified",
        label=label,
        probabilities=shown,
        thresholds=dict(calibration.thresholds),
        prediction_set=fitting,
        reasons=reasons,
        quality=quality.as_dict(),
        in_distribution=in_distribution,
        evidence=[round(float(value), _EVIDENCE_DIGITS) for value in evidence.reshape(-1)],
    )
