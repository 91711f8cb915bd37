"""Packed answers come back as they were given, and a scheme is known by what it says."""

import struct

import pytest

from shared.answers import Scheme, scheme
from tests.integration.ledger.said import ANSWER, said

THRESHOLDS = (("mpox", 0.4), ("other", 0.6))
QUALITY = ("blur", "size")
PROBABILITIES = {"mpox": 0.5, "other": 0.5}
FIGURES = {"blur": 1.0, "size": 9}


def test_an_answer_comes_back_as_it_was_to_the_last_published_digit() -> None:
    packed = said()
    assert packed["scheme"].unpack(packed["numbers"]) == ANSWER
    assert len(packed["numbers"]) == 1 + 4 + 2 * 4 + 4 * 8 + 49 * 4


@pytest.mark.parametrize("fitting", [[], ["mpox"], ["other"], ["mpox", "other"]])
@pytest.mark.parametrize("inside", [True, False])
def test_every_prediction_set_comes_back(fitting: list[str], *, inside: bool) -> None:
    by = scheme("demo", "x", THRESHOLDS, QUALITY)
    found = by.unpack(by.pack(PROBABILITIES, fitting, FIGURES, [], in_distribution=inside))
    assert (found["prediction_set"], found["in_distribution"], found["evidence"]) == (fitting, inside, [])


def test_every_published_probability_survives_four_bytes() -> None:
    by = scheme("demo", "x", THRESHOLDS, ())
    for millionths in range(0, 1_000_001, 997):
        given = {"mpox": millionths / 1e6, "other": round(1 - millionths / 1e6, 6)}
        assert by.unpack(by.pack(given, [], {}, [], in_distribution=True))["probabilities"] == given


@pytest.mark.parametrize("strongest", [0.0123, 7.0, 123.4567, 499.9999, -499.9999])
def test_evidence_below_500_comes_back_exactly_and_stronger_evidence_to_a_ten_millionth(strongest: float) -> None:
    by = scheme("demo", "x", THRESHOLDS, ())
    given = [round(strongest * place / 48, 4) for place in range(49)]
    assert by.unpack(by.pack(PROBABILITIES, [], {}, given, in_distribution=True))["evidence"] == given
    far = [value * 1000 for value in given]
    found = by.unpack(by.pack(PROBABILITIES, [], {}, far, in_distribution=True))["evidence"]
    assert found == pytest.approx(far, rel=1e-7, abs=1e-4)


def test_figures_come_back_exactly() -> None:
    by, given = scheme("demo", "x", THRESHOLDS, QUALITY), {"blur": 0.1 + 0.2, "size": 16_777_217}
    assert by.unpack(by.pack(PROBABILITIES, [], given, [], in_distribution=True))["quality"] == given


@pytest.mark.parametrize(
    ("probabilities", "fitting", "quality", "error"),
    [
        ({"mpox": 1.0}, [], FIGURES, ValueError),
        ({"mpox": 0.5, "measles": 0.5}, [], FIGURES, KeyError),
        (PROBABILITIES, ["measles"], FIGURES, KeyError),
        (PROBABILITIES, [], {"blur": 1.0}, ValueError),
        ({"mpox": 1e300, "other": 0.0}, [], FIGURES, OverflowError),
    ],
)
def test_what_a_scheme_does_not_know_is_not_packed(
    probabilities: dict[str, float], fitting: list[str], quality: dict[str, float], error: type[Exception]
) -> None:
    with pytest.raises(error):
        scheme("demo", "x", THRESHOLDS, QUALITY).pack(probabilities, fitting, quality, [], in_distribution=True)


def test_numbers_of_another_length_are_refused() -> None:
    packed = said()
    with pytest.raises(struct.error):
        packed["scheme"].unpack(packed["numbers"][:-1])


def test_a_scheme_is_known_by_all_that_it_says() -> None:
    given = ("demo", "x", THRESHOLDS, QUALITY)
    assert scheme(*given) is scheme(*given)
    assert Scheme("demo", "x", ("mpox", "other"), (0.4, 0.6), QUALITY).id == scheme(*given).id
    others = [
        scheme("other", "x", THRESHOLDS, QUALITY),
        scheme("demo", "y", THRESHOLDS, QUALITY),
        scheme("demo", "x", THRESHOLDS[::-1], QUALITY),
        scheme("demo", "x", (("mpox", 0.4), ("other", 0.61)), QUALITY),
        scheme("demo", "x", THRESHOLDS, ("blur",)),
    ]
    assert len({scheme(*given).id} | {other.id for other in others}) == 6


def test_a_scheme_has_a_threshold_for_each_label_and_room_for_each_in_its_set() -> None:
    with pytest.raises(ValueError, match="threshold"):
        Scheme("demo", "x", ("mpox", "other"), (0.4,), QUALITY)
    with pytest.raises(ValueError, match="32"):
        Scheme("demo", "x", tuple(map(str, range(33))), (0.4,) * 33, QUALITY)
