"""The rules of trust at small size: the shipped network on drawn people and pictures that it has never met.

At full size, with intervals, `make model-gates` holds them.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.gates import ABSTAINED, ACCEPTED, LARGEST_ECE
from training.metrics import auroc, calibration_error
from training.strangers import pictures
from training.synthetic import NEGATIVE, POSITIVE, jpeg, patient, render
from worker.inference.answers import OUT_OF_DISTRIBUTION, Answer
from worker.inference.classifier import Classifier
from worker.inference.preprocess import measure_quality, network_input

#: Not that of `data synth` nor of the shipped samples, so nobody here was in a split.
SEED = 1307
PATIENTS = 24
ONCE = np.ones((1, 2 * PATIENTS))
Load = Callable[[str, str], Classifier]


@dataclass(frozen=True)
class Unseen:
    """Answers about photos of new people, the positive ones first, and whether each is right."""

    answers: list[Answer]
    labels: tuple[str, ...]

    @property
    def kinds(self) -> NDArray[np.int64]:
        return np.repeat([0, 1], PATIENTS)

    @property
    def p(self) -> NDArray[np.float64]:
        return np.array([[answer.probabilities[label] for label in self.labels] for answer in self.answers])


@pytest.fixture(scope="module")
def unseen(classifier: Load) -> Unseen:
    loaded = classifier("auto", "auto")
    people = [patient(SEED, kind, number) for kind in (POSITIVE, NEGATIVE) for number in range(PATIENTS)]
    photos = [Image.open(io.BytesIO(jpeg(render(who, 0, side=224)))).convert("RGB") for who in people]
    qualities = [measure_quality(picture, shorter_side=224) for picture in photos]
    answers = loaded.classify(np.stack([network_input(photo) for photo in photos]), qualities)
    return Unseen(answers, loaded.bundle.labels)


def least(nominal: float, n: int) -> float:
    """What a share of n photos must reach, two standard errors below."""
    return nominal - 2 * float(np.sqrt(nominal * (1 - nominal) / n))


def test_new_people_are_told_apart_and_probabilities_are_what_they_say(unseen: Unseen) -> None:
    p, kinds = unseen.p, unseen.kinds
    assert auroc(p[:, 0], kinds == 0)(ONCE)[0] >= 0.95
    right = p.argmax(axis=1) == kinds
    ece = calibration_error(p.max(axis=1), right)(ONCE)[0]
    assert ece <= LARGEST_ECE


def test_prediction_sets_hold_the_truth_as_often_as_promised(unseen: Unseen) -> None:
    held = [unseen.labels[kind] in one.prediction_set for one, kind in zip(unseen.answers, unseen.kinds, strict=True)]
    assert np.mean(held) >= least(0.9, len(held))


def test_new_people_are_accepted_and_pictures_that_are_no_skin_are_not_answered(
    unseen: Unseen, classifier: Load
) -> None:
    accepted = [OUT_OF_DISTRIBUTION not in one.reasons for one in unseen.answers]
    pixels, qualities, families = pictures(SEED, 3)
    abstained = [one.outcome == "abstained" for one in classifier("auto", "auto").classify(pixels, qualities)]
    assert np.mean(accepted) >= least(ACCEPTED, len(accepted))
    assert np.mean(abstained) >= ABSTAINED
    assert all(one for one, family in zip(abstained, families, strict=True) if family in {"blank", "noise"})
