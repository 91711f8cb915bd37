"""Owns what a synthetic data set is to hold: its patients and photos, their labels, and the faults planted in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from shared.errors import DataRefused
from training.layouts import CLASSES, V1, V2
from training.stream import Stream
from training.synthetic import NEGATIVE, POSITIVE, Patient, patient

COPIES: Final = 14
_PLAN, _PLANTED, _SHUFFLE, _CAMERA = 11, 13, 14, 15
_MOST_IMAGES: Final = 5
_ELSEWHERE: Final = 10_000  # more than a class has patients
_WATERMARKED: Final = 0.9  # of the first class; the others have the rest


@dataclass(frozen=True)
class _Kind:
    """One class as its data set packs it: patients and photos there, beginning of names, number and look to draw."""

    prefix: str
    patients: int
    images: int
    kind: int
    look: str | None = None


# Patients and photos as MSLD has them (arXiv 2207.03342, 2306.14169, and the file lists of both).
_KINDS: Final = {
    V1: {"Monkeypox": _Kind("M", 55, 102, POSITIVE), "Others": _Kind("NM", 110, 126, NEGATIVE)},
    V2: {
        "Monkeypox": _Kind("MKP_", 143, 284, POSITIVE, "mpox-like"),
        "Chickenpox": _Kind("CHP_", 62, 75, 2, "chickenpox-like"),
        "Measles": _Kind("MSL_", 46, 55, 3, "measles-like"),
        "Cowpox": _Kind("CWP_", 41, 66, 4, "cowpox-like"),
        "HFMD": _Kind("HFMD_", 144, 161, 5, "hfmd-like"),
        "Healthy": _Kind("HEALTHY_", 105, 114, 6, "healthy"),
    },
}


@dataclass(frozen=True)
class Plan:
    """A data set to draw. `patients` is for each class; None: as many as the real one has.

    `copies` are the augmented ones of each photo, `duplicates` photos shown again under another patient, `mislabel` the
    share of patients filed under a wrong class, `tone_bias` from 0 (none) to 1 (every patient of the first class is
    dark-skinned, every other light-skinned). Where there are several `sides`, each photo has one of them by lot.
    """

    layout: Literal["msld-v1", "msld-v2"] = V1
    patients: int | None = None
    seed: int = 7
    sides: tuple[int, ...] = (224,)
    copies: int = COPIES
    confounder: Literal["", "watermark"] = ""
    duplicates: int = 0
    mislabel: float = 0.0
    tone_bias: float = 0.0
    masks: bool = False


@dataclass(frozen=True)
class Drawn:
    """One photo to draw, and what the data set will say of it. `number` and `image` are those of its name."""

    label: str
    true_label: str
    number: int
    image: int
    tone: int | None
    watermark: bool
    shows: Drawn | None = None

    def stem(self, layout: str) -> str:
        """Its name in the data set, without the suffix."""
        return f"{_KINDS[layout][self.label].prefix}{self.number:02}_{self.image:02}"


def photos(plan: Plan) -> list[Drawn]:
    """Every photo of the plan, by class, patient and image. Raises `DataRefused` for a plan that cannot be."""
    least = 5 if plan.layout == V2 else 3
    if plan.patients is not None and plan.patients < least:
        raise DataRefused(f"{plan.patients} patients a class cannot fill every split: {least} are the least")
    found = []
    for place, (label, kind) in enumerate(_KINDS[plan.layout].items()):
        stream = Stream(plan.seed, _PLAN, place)
        patients = plan.patients or kind.patients
        images = kind.images if plan.patients is None else round(patients * kind.images / kind.patients)
        others = [name for name in CLASSES[plan.layout] if name != label]
        for number, count in enumerate(_dealt(stream, patients, images), start=1):
            wrong, other = stream.uniform() < plan.mislabel, stream.integer(0, len(others) - 1)
            tone = _biased_tone(stream, plan.tone_bias, dark=place == 0)
            for image in range(1, count + 1):
                marked = (stream.uniform() < _WATERMARKED) == (place == 0) and bool(plan.confounder)
                found.append(Drawn(label, others[other] if wrong else label, number, image, tone, marked))
    return _with_duplicates(plan, found)


def _dealt(stream: Stream, patients: int, images: int) -> list[int]:
    """How many photos each patient has: one for everybody, the rest dealt at random, five at most."""
    counts = [1] * patients
    left = min(images, patients * _MOST_IMAGES) - patients
    while left > 0:
        lucky = stream.integer(0, patients - 1)
        if counts[lucky] < _MOST_IMAGES:
            counts[lucky] += 1
            left -= 1
    return counts


def _biased_tone(stream: Stream, bias: float, *, dark: bool) -> int | None:
    """A tone of the class's half of the scale with the probability `bias`; None: as the patient's number deals it."""
    biased, within = stream.uniform() < bias, stream.integer(0, 2)
    return (within + 3 if dark else within) if biased else None


def _with_duplicates(plan: Plan, found: list[Drawn]) -> list[Drawn]:
    """Show some photos again in the place of a photo of another patient of the same class; counts stay."""
    stream = Stream(plan.seed, _PLANTED)
    free = list(range(len(found)))
    for _ in range(plan.duplicates):
        strangers: list[int] = []
        shown = -1
        while free and not strangers:
            shown = free.pop(stream.integer(0, len(free) - 1))
            strangers = [
                at for at in free if found[at].label == found[shown].label and found[at].number != found[shown].number
            ]
        if not strangers:
            raise DataRefused(f"{plan.duplicates} duplicates are too many for {len(found)} photos")
        replaced = strangers[stream.integer(0, len(strangers) - 1)]
        free.remove(replaced)
        found[replaced] = replace(found[replaced], shows=found[shown])
    return found


def ranks(plan: Plan, drawn: list[Drawn]) -> dict[tuple[str, int], tuple[int, int]]:
    """For each patient its place in a shuffled row of its class, and how long the row is: splits are made of it."""
    found = {}
    for place, label in enumerate(_KINDS[plan.layout]):
        numbers = sorted({each.number for each in drawn if each.label == label})
        keys = Stream(plan.seed, _SHUFFLE, place).uniforms(len(numbers))
        for rank, at in enumerate(np.argsort(keys, kind="stable")):
            found[label, numbers[at]] = (rank, len(numbers))
    return found


def side_of(plan: Plan, each: Drawn) -> int:
    """The side of a photo in pixels: users' cameras differ, so data sets may hold several."""
    place = list(_KINDS[plan.layout]).index(each.label)
    return plan.sides[Stream(plan.seed, _CAMERA, place, each.number, each.image).integer(0, len(plan.sides) - 1)]


def patient_shown(plan: Plan, each: Drawn) -> Patient:
    """Whom a photo shows, with all traits."""
    kind = _KINDS[plan.layout][each.true_label]
    # A patient filed under a wrong class is nobody of the right class, nor whom another class holds wrongly.
    wrong_in = 0 if each.true_label == each.label else 1 + list(_KINDS[plan.layout]).index(each.label)
    number = each.number + _ELSEWHERE * wrong_in
    return patient(plan.seed, kind.kind, number, tone=each.tone, look=kind.look)
