"""Metrics against cases by hand and against scikit-learn; intervals that resample patients; tests of differences."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.canary import canary
from training.comparisons import delong, mcnemar
from training.intervals import Resampling
from training.metrics import Counts, auroc, average_precision, brier_part, calibration_error, risk_at, share

DRAWS = np.random.default_rng(3)
POSITIVE = DRAWS.random(300) < 0.4


def normal() -> NDArray[np.float64]:
    return np.asarray(DRAWS.normal(size=300), dtype=np.float64)


SCORES: NDArray[np.float64] = np.asarray(np.round(np.clip(0.5 + 0.2 * POSITIVE + 0.2 * normal(), 0, 1), 2), np.float64)
ONCE = np.ones((1, 300))


def test_areas_and_correlation_agree_with_scikit_learn_also_when_weighted() -> None:
    from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score

    weights = DRAWS.integers(0, 4, (1, 300)).astype(float)
    for row in (ONCE, weights):
        expected = roc_auc_score(POSITIVE, SCORES, sample_weight=row[0])
        assert auroc(SCORES, POSITIVE)(row)[0] == pytest.approx(expected)
        expected = average_precision_score(POSITIVE, SCORES, sample_weight=row[0])
        assert average_precision(SCORES, POSITIVE)(row)[0] == pytest.approx(expected)
        called = SCORES >= 0.5
        expected = matthews_corrcoef(POSITIVE, called, sample_weight=row[0])
        assert Counts(called, POSITIVE).mcc(row)[0] == pytest.approx(expected)


def test_predictive_values_follow_bayes() -> None:
    table = Counts(np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 0, 0], bool))  # sens 1, spec 2/3
    assert table.ppv(0.2)(np.ones((1, 5)))[0] == pytest.approx(0.2 / (0.2 + 0.8 / 3))
    assert table.npv(0.2)(np.ones((1, 5)))[0] == pytest.approx(1.0)


def test_calibration_error_and_risk_by_hand() -> None:
    confidence, right = np.repeat([0.6, 0.9], 10), np.array([True] * 5 + [False] * 5 + [True] * 9 + [False])
    assert calibration_error(confidence, right, bins=2)(np.ones((1, 20)))[0] == pytest.approx(0.05)
    assert risk_at(confidence, right, 0.5)(np.ones((1, 20)))[0] == pytest.approx(0.1)
    assert risk_at(confidence, right, 1.0)(np.ones((1, 20)))[0] == pytest.approx(0.3)


def test_the_parts_of_the_brier_score_add_up_where_bins_are_pure() -> None:
    p = np.repeat([0.1, 0.7], 50)
    truth = np.concatenate([np.arange(50) < 10, np.arange(50) < 30])
    parts = {
        n: brier_part(p, truth, n, bins=2)(np.ones((1, 100)))[0] for n in ("reliability", "resolution", "uncertainty")
    }
    assert parts["reliability"] - parts["resolution"] + parts["uncertainty"] == pytest.approx(np.mean((p - truth) ** 2))


def test_an_interval_resamples_patients_not_photos() -> None:
    right = np.repeat(np.arange(40) % 4 > 0, 5)
    by_patient = Resampling.of(np.repeat(np.arange(40), 5)).measure(share(right))
    by_photo = Resampling.of(np.arange(200)).measure(share(right))
    assert by_patient["value"] == by_photo["value"] == 0.75
    assert by_patient["high"] - by_patient["low"] > 1.8 * (by_photo["high"] - by_photo["low"])


def test_where_no_patient_is_missed_the_interval_is_the_exact_one_of_as_many_patients() -> None:
    """Resampling people who are all alike shows no spread, and 'all of 20, between 100 % and 100 %' would be a lie."""
    patients = np.repeat(np.arange(20), 2)
    all_right = Resampling.of(patients).measure(share(np.ones(40, bool)))
    # Clopper and Pearson 1934: of 20, with none wrong.
    assert (all_right["value"], all_right["low"], all_right["high"]) == (1.0, pytest.approx(0.8316, abs=1e-4), 1.0)
    none = Resampling.of(patients).measure(share(np.zeros(40, bool), np.arange(40) < 20), photos=20)
    assert (none["value"], none["low"], none["high"]) == (0.0, 0.0, pytest.approx(0.3085, abs=1e-4)), "of ten patients"
    positive = np.arange(40) < 20
    called = positive | (np.arange(40) > 35)
    found = Resampling.of(patients).measure(Counts(called, positive).npv(0.05))
    assert (found["value"], found["high"]) == (1.0, 1.0)
    sensitivity, specificity = 0.6915, Resampling.of(patients).measure(share(~called, ~positive))["low"]
    assert found["low"] == pytest.approx(0.95 * specificity / (0.95 * specificity + 0.05 * (1 - sensitivity)), abs=1e-3)
    area = Resampling.of(patients).measure(auroc(positive.astype(float), positive))
    assert area["constant"]
    assert "constant" not in Resampling.of(patients).measure(share(called))


def test_below_twenty_photos_nothing_is_said() -> None:
    found = Resampling.of(np.arange(19)).measure(share(np.ones(19, bool)))
    assert found["value"] is None
    assert "not enough data" in found["reason"]


def test_delong_finds_no_difference_between_like_and_a_large_one_between_unlike() -> None:
    patients = np.arange(300)
    assert delong(SCORES, SCORES, POSITIVE, patients)["p"] is None
    apart = delong(SCORES, normal(), POSITIVE, patients)["p"]
    assert apart is not None
    assert apart < 0.001
    false_alarms = [delong(normal(), normal(), POSITIVE, patients)["p"] for _ in range(200)]
    assert np.mean([p < 0.05 for p in false_alarms if p is not None]) < 0.11


def test_mcnemar_by_hand() -> None:
    one, other = np.array([1] * 8 + [0] * 2, bool), np.array([0] * 8 + [1] * 2, bool)
    assert mcnemar(one, other) == {"only_this": 8, "only_other": 2, "p": pytest.approx(2 * 56 / 1024, abs=1e-6)}


def test_the_canary_is_silent_on_whole_patients_and_sings_when_patients_are_torn() -> None:
    groups = np.repeat(np.arange(60), 3)
    features = DRAWS.normal(size=(60, 40))[groups] + 0.2 * DRAWS.normal(size=(180, 40))
    assert canary(features, groups, groups % 5)["passed"]
    torn = canary(features, groups, np.arange(180) % 5)
    assert not torn["passed"]
    assert torn["grouped"]["value"] > 0.8
