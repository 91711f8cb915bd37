"""What is fitted on validation patients: checked against cases worked out by hand and against known truth."""

import numpy as np
import pytest

from training.calibration import conformal_threshold, fit_quality_limits, fit_temperature
from worker.inference.answers import probabilities_of
from worker.inference.preprocess import Quality


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_temperature_is_recovered_from_labels_drawn_at_it(true: float) -> None:
    draws = np.random.default_rng(3)
    logits = draws.normal(0, 3, (20_000, 2)).astype(np.float32)
    kinds = (draws.random(20_000) > probabilities_of(logits, true)[:, 0]).astype(np.int64)
    assert fit_temperature(logits, kinds) == pytest.approx(true, rel=0.06)


@pytest.mark.parametrize("photos", [20, 200])
def test_where_no_photo_is_called_wrongly_no_answer_becomes_certain(photos: int) -> None:
    kinds = np.arange(photos) % 2
    logits = np.where(np.eye(2)[kinds] > 0, 3.0, -3.0).astype(np.float32)
    said = probabilities_of(logits, fit_temperature(logits, kinds))[np.arange(photos), kinds]
    # Platt's target, by hand: of n photos of a class one more of it, and one of the other, are as good as seen.
    assert said == pytest.approx((photos / 2 + 1) / (photos / 2 + 2), abs=1e-3)


@pytest.mark.parametrize(
    ("own", "alpha", "threshold"),
    [
        # 9 photos: ceil(10 * 0.9) = 9, the worst of them.
        ([0.9, 0.8, 0.95, 0.7, 0.6, 0.99, 0.85, 0.75, 0.3], 0.1, 0.3),
        # ceil(10 * 0.8) = 8, the second worst.
        ([0.9, 0.8, 0.95, 0.7, 0.6, 0.99, 0.85, 0.75, 0.3], 0.2, 0.6),
        # 8 photos cannot promise 90 %: ceil(9 * 0.9) = 9 > 8, so the label is always in the set.
        ([0.9] * 8, 0.1, 0.0),
    ],
)
def test_conformal_threshold_by_hand(own: list[float], alpha: float, threshold: float) -> None:
    assert conformal_threshold(np.array(own), alpha) == pytest.approx(threshold, abs=1.1e-6)


def test_conformal_thresholds_cover_new_photos_as_promised() -> None:
    draws = np.random.default_rng(5)
    covered = [np.mean(draws.beta(4, 1, 500) >= conformal_threshold(draws.beta(4, 1, 84))) for _ in range(200)]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.015) or np.mean(covered) > 0.9


def test_quality_limits_lie_outside_everything_seen() -> None:
    seen = [
        Quality(blur=50.0, exposure=0.2, size=224, flat=10.0),
        Quality(blur=90.0, exposure=0.8, size=448, flat=30.0),
    ]
    limits = fit_quality_limits(seen)
    assert (limits.blur, limits.darkest, limits.brightest, limits.flat) == (30.0, 0.12, 0.88, 6.0)
