"""The answer rules, as tables worked out by hand."""

import math

import numpy as np
import pytest

from worker.inference.answers import (
    Calibration,
    QualityLimits,
    answers_from,
    probabilities_of,
    quality_reasons,
)
from worker.inference.engine import Outputs
from worker.inference.gate import Residual, gate_of
from worker.inference.preprocess import Quality

LIMITS = QualityLimits(blur=20.0, darkest=0.1, brightest=0.9, size=160, flat=4.0)
FIT = Quality(blur=100.0, exposure=0.5, size=400, flat=20.0)


def calibration(*, mpox: float = 0.7, other: float = 0.6, temperature: float = 1.0) -> Calibration:
    """Two labels and a gate whose subspace is the first axis: the distance is the length of the other two."""
    return Calibration(
        labels=("mpox", "other"),
        temperature=temperature,
        thresholds={"mpox": mpox, "other": other},
        gate=Residual(np.zeros(3, dtype=np.float32), np.array([[1, 0, 0]], dtype=np.float32)),
        gate_limit=5.0,
        limits=LIMITS,
    )


def outputs(margin: float, features: tuple[float, float, float] = (9.0, 0.0, 0.0)) -> Outputs:
    """One photo whose logits differ by `margin`: p(mpox) = 1 / (1 + exp(-margin))."""
    return Outputs(
        logits=np.array([[margin, 0.0]], dtype=np.float32),
        evidence=np.full((1, 7, 7), margin, dtype=np.float32),
        features=np.array([features], dtype=np.float32),
    )


def margin_of(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(
    ("p", "thresholds", "in_set", "label", "reasons"),
    [
        # 0.9 >= 0.7 and 0.1 < 0.6: one label.
        (0.9, (0.7, 0.6), ["mpox"], "mpox", []),
        # 0.2 < 0.7 and 0.8 >= 0.6: the other label alone.
        (0.2, (0.7, 0.6), ["other"], "other", []),
        # 0.65 < 0.7 and 0.35 < 0.6: no label is probable enough; the most probable is still named.
        (0.65, (0.7, 0.6), [], "mpox", ["no_label_fits"]),
        # 0.65 >= 0.3 and 0.35 >= 0.3: both labels are possible.
        (0.65, (0.3, 0.3), ["mpox", "other"], "mpox", ["ambiguous"]),
        # 0.35 reaches a low threshold of mpox, 0.65 misses a high one of other: the less probable alone is no answer.
        (0.35, (0.3, 0.7), ["mpox"], "other", ["ambiguous"]),
        # A threshold of 0 lets its label in always.
        (0.01, (0.0, 0.6), ["mpox", "other"], "other", ["ambiguous"]),
    ],
)
def test_the_prediction_set_decides(
    p: float, thresholds: tuple[float, float], in_set: list[str], label: str, reasons: list[str]
) -> None:
    rules = calibration(mpox=thresholds[0], other=thresholds[1])
    (answer,) = answers_from(outputs(margin_of(p)), [FIT], rules)
    assert answer.probabilities == pytest.approx({"mpox": p, "other": 1 - p}, abs=1e-6)
    assert (answer.prediction_set, answer.label, answer.reasons) == (in_set, label, reasons)
    assert answer.outcome == ("abstained" if reasons else "classified")


@pytest.mark.parametrize(
    ("quality", "reasons"),
    [
        (FIT, []),
        # Each limit itself is still good enough.
        (Quality(blur=20.0, exposure=0.1, size=160, flat=4.0), []),
        (Quality(blur=100.0, exposure=0.9, size=160, flat=4.0), []),
        (Quality(blur=19.9, exposure=0.5, size=400, flat=20.0), ["blurred"]),
        (Quality(blur=100.0, exposure=0.09, size=400, flat=20.0), ["too_dark"]),
        (Quality(blur=100.0, exposure=0.91, size=400, flat=20.0), ["too_bright"]),
        (Quality(blur=100.0, exposure=0.5, size=159, flat=20.0), ["too_small"]),
        (Quality(blur=100.0, exposure=0.5, size=400, flat=3.9), ["flat_frame"]),
        (Quality(blur=0.0, exposure=0.0, size=10, flat=0.0), ["too_small", "too_dark", "flat_frame", "blurred"]),
    ],
)
def test_a_photo_must_be_fit_to_be_judged(quality: Quality, reasons: list[str]) -> None:
    assert quality_reasons(quality, LIMITS) == reasons
    (answer,) = answers_from(outputs(5.0), [quality], calibration())
    assert answer.reasons == reasons
    assert answer.outcome == ("abstained" if reasons else "classified")
    assert answer.quality == quality.as_dict()


@pytest.mark.parametrize(
    ("features", "inside"),
    [
        ((1000.0, 0.0, 0.0), True),  # however far along the subspace
        ((0.0, 3.0, 4.0), True),  # 3, 4, 5: exactly at the limit
        ((0.0, 3.0, 4.1), False),
    ],
)
def test_the_gate_measures_the_distance_to_the_training_subspace(
    features: tuple[float, float, float], inside: bool
) -> None:
    (answer,) = answers_from(outputs(5.0, features), [FIT], calibration())
    assert answer.in_distribution is inside
    assert answer.reasons == ([] if inside else ["out_of_distribution"])


def test_all_reasons_are_given_together_and_the_label_stays() -> None:
    (answer,) = answers_from(
        outputs(margin_of(0.65), (0.0, 9.0, 0.0)), [Quality(100.0, 0.05, 400, 20.0)], calibration()
    )
    assert answer.reasons == ["too_dark", "out_of_distribution", "no_label_fits"]
    assert answer.label == "mpox"


@pytest.mark.parametrize(
    ("temperature", "p"),
    [(1.0, 0.8808), (2.0, 0.7311), (0.5, 0.9820)],  # sigmoid of 2, 1 and 4
)
def test_probabilities_are_calibrated_by_the_temperature(temperature: float, p: float) -> None:
    found = probabilities_of(np.array([[2.0, 0.0]], dtype=np.float32), temperature)
    assert found[0, 0] == pytest.approx(p, abs=1e-4)
    assert found.sum() == pytest.approx(1.0)


def test_huge_logits_do_not_overflow() -> None:
    assert probabilities_of(np.array([[3000.0, -3000.0]], dtype=np.float32), 1.0).tolist() == [[1.0, 0.0]]


def test_a_decision_can_be_retraced_from_the_published_numbers() -> None:
    draws = np.random.default_rng(1)
    for margin in draws.normal(0, 3, 200):
        (answer,) = answers_from(outputs(float(margin)), [FIT], calibration())
        retraced = [label for label, p in answer.probabilities.items() if p >= answer.thresholds[label]]
        assert retraced == answer.prediction_set


def test_evidence_is_49_numbers_in_reading_order_with_four_digits() -> None:
    cells = (np.arange(49).reshape(1, 7, 7) / 3).astype(np.float32)
    found = Outputs(outputs(5.0).logits, cells, outputs(5.0).features)
    (answer,) = answers_from(found, [FIT], calibration())
    assert answer.evidence[:3] == [0.0, 0.3333, 0.6667]
    assert answer.evidence[7] == 2.3333
    assert len(answer.evidence) == 49


@pytest.mark.parametrize("broken", ["logits", "evidence", "features"])
def test_numbers_that_are_not_finite_become_no_answer(broken: str) -> None:
    found = outputs(5.0)
    getattr(found, broken).reshape(-1)[0] = np.nan
    with pytest.raises(FloatingPointError):
        answers_from(found, [FIT], calibration())


def test_a_distance_does_not_depend_on_the_neighbours() -> None:
    draws = np.random.default_rng(2)
    features = draws.normal(size=(9, 2048)).astype(np.float32)
    mean, components = features.mean(axis=0), np.linalg.qr(draws.normal(size=(2048, 64)))[0].T.astype(np.float32)
    together = Residual(mean, components).distances(features)
    alone = [Residual(mean, components).distances(row[None])[0] for row in features]
    assert together.tolist() == alone


def test_a_gate_that_was_widened_once_says_the_same_to_the_bit() -> None:
    draws = np.random.default_rng(3)
    stored = {
        "mean": draws.normal(size=2048).astype(np.float32),
        "components": np.linalg.qr(draws.normal(size=(2048, 64)))[0].T.astype(np.float32),
    }
    features = draws.normal(size=(5, 2048)).astype(np.float32)
    narrow = Residual(stored["mean"], stored["components"]).distances(features)
    assert gate_of(stored).distances(features).tolist() == narrow.tolist()
