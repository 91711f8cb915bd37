"""The card's figures: metrics against hand-computed cases, intervals over patients."""

import numpy as np
import pytest

from training.evaluation import abstention, evaluate, expected_calibration_error, with_interval
from training.learning import auc
from worker.inference.answers import Answer

LABELS = ("mpox (synthetic)", "other (synthetic)")


def answer(p: float, *, outcome: str = "classified", sure: bool = True, inside: bool = True) -> Answer:
    label = LABELS[0] if p >= 0.5 else LABELS[1]
    return Answer(
        outcome="classified" if outcome == "classified" else "abstained",
        label=label,
        probabilities={LABELS[0]: p, LABELS[1]: 1 - p},
        thresholds=dict.fromkeys(LABELS, 0.5),
        prediction_set=[label] if sure else list(LABELS),
        reasons=[],
        quality={},
        in_distribution=inside,
        evidence=[0.0] * 49,
    )


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 1.0),
        ([0.9, 0.2, 0.8, 0.1], [1, 1, 0, 0], 0.75),  # of four pairs one is the wrong way round
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0], 0.5),  # ties count half
        ([0.1, 0.9], [1, 0], 0.0),
    ],
)
def test_auc_by_hand(scores: list[float], positive: list[int], area: float) -> None:
    assert auc(np.array(scores), np.array(positive, dtype=bool)) == pytest.approx(area)


def test_calibration_error_is_the_mean_gap_between_confidence_and_truth() -> None:
    confidence = np.array([0.6] * 10 + [0.9] * 10)
    right = np.array([True] * 5 + [False] * 5 + [True] * 9 + [False])
    assert expected_calibration_error(confidence, right, bins=2) == pytest.approx((10 * 0.1 + 10 * 0.0) / 20)


def test_an_interval_resamples_patients_not_photos() -> None:
    right = np.repeat(np.arange(40) % 4 > 0, 5)  # five photos of each patient, all alike
    by_patient = with_interval(lambda at: float(right[at].mean()), np.repeat(np.arange(40), 5))
    by_photo = with_interval(lambda at: float(right[at].mean()), np.arange(200))
    assert by_patient["value"] == by_photo["value"] == 0.75
    assert by_patient["high"] - by_patient["low"] > 1.7 * (by_photo["high"] - by_photo["low"])


def test_evaluation_counts_what_it_says() -> None:
    answers = [answer(0.9), answer(0.4), answer(0.2), answer(0.1, outcome="abstained", sure=False, inside=False)]
    found = evaluate(answers, np.array([0, 0, 1, 1]), np.array([0, 2, 1, 3]))
    assert (found["photos"], found["patients"]) == (4, 4)
    expected = {
        "auc": 1.0,
        "accuracy": 0.75,
        "sensitivity": 0.5,
        "specificity": 1.0,
        "coverage": 0.75,
        "single_label": 0.75,
        "acceptance": 0.75,
        "classified": 0.75,
        "accuracy_when_classified": 0.6667,
    }
    assert {name: found[name]["value"] for name in expected} == expected
    assert all(found[name]["low"] <= found[name]["value"] <= found[name]["high"] for name in expected)


def test_probes_are_counted_by_family() -> None:
    answers = [answer(0.9), answer(0.1, outcome="abstained", inside=False), answer(0.2, outcome="abstained")]
    found = abstention(answers, ["blank", "blank", "noise"])
    assert found["abstained"] == pytest.approx(0.6667)
    assert found["out_of_distribution"] == pytest.approx(0.3333)
    assert found["classified_positive"] == 1
    assert found["by_family"] == {"blank": 0.5, "noise": 1.0}
