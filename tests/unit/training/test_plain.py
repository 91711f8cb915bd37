"""The first figures in words: so many of a hundred, the right way round, and nothing where nothing was measured."""

import pytest

from training.intervals import Measure, no_measure
from training.report.charts import _ticks
from training.report.plain import said, sentences


def figure(value: float, low: float, high: float) -> Measure:
    return {"value": value, "low": low, "high": high, "n": 100}


METRICS = {
    "sensitivity": figure(0.85, 0.8, 0.9),
    "specificity": figure(0.9, 0.85, 0.97),
    "ppv_5": figure(0.31, 0.2, 0.5),
}


def test_figures_are_said_of_a_hundred_with_their_intervals_the_right_way_round() -> None:
    found = sentences(METRICS, figure(0.7, 0.6, 0.8), "mpox (synthetic)", synthetic=True)
    assert found[0].startswith("Of 100 synthetic photos of mpox, 85 (80 to 90) are called mpox")
    assert "Of 100 other synthetic photos, 10 (3 to 15) are called mpox although" in found[1]
    assert "of 100 that are called mpox, 31 (20 to 50)" in found[2]
    assert "70 (60 to 80) get an answer" in found[3]


def test_what_was_not_measured_is_not_said() -> None:
    nothing = dict.fromkeys(METRICS, no_measure(3))
    assert sentences(nothing, no_measure(3), "mpox", synthetic=False) == [
        "There are too few photos to say how many would be called rightly."
    ]
    half = {**METRICS, "sensitivity": no_measure(3)}
    assert all("missed" not in text for text in sentences(half, no_measure(3), "mpox", synthetic=False))


def test_axes_have_round_numbers() -> None:
    assert _ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert _ticks(-0.1, 0.5) == [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert _ticks(0.0, 0.1) == [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]


@pytest.mark.parametrize(
    ("value", "low", "high", "digits", "told"),
    [
        (0.8512, 0.7, 0.9987, 2, ("0.85", "0.70", "1.00")),
        # Nothing seems certain by rounding: neither a figure nor the end of its interval that is the nearer one.
        (0.9988, 0.9961, 0.9999, 2, ("0.999", "0.996", "1.000")),
        (0.9998, 0.9995, 1.0, 3, ("0.9998", "0.9995", "1.0000")),
        (0.0004, 0.0, 0.0021, 3, ("0.0004", "0.0000", "0.0021")),
        (0.9961, 0.9955, 0.9964, 2, ("0.996", "0.996", "0.996")),
        # What is certain among the photos stays as it is.
        (1.0, 0.8316, 1.0, 2, ("1.00", "0.83", "1.00")),
        (0.0, 0.0, 0.03, 3, ("0.000", "0.000", "0.030")),
    ],
)
def test_figures_have_digits_enough_to_be_true(
    value: float, low: float, high: float, digits: int, told: tuple[str, str, str]
) -> None:
    assert said({"value": value, "low": low, "high": high}, digits) == told


def test_of_a_hundred_nearly_all_is_not_all() -> None:
    found = {"value": 0.9979, "low": 0.991, "high": 1.0}
    assert said(found, 0, whole=100) == ("99.8", "99.1", "100.0")
