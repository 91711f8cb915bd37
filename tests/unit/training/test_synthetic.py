"""Synthetic photos are the same on every run and machine, and carry their mark."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.synthetic import NEGATIVE, POSITIVE, TONES, jpeg, patient, render

GOLDEN = Path(__file__).parent / "golden"
# (class, patient): three of each class, so that each look and several tones are among them.
GOLDEN_KEYS = [
    (POSITIVE, 0),
    (POSITIVE, 3),
    (POSITIVE, 5),
    (NEGATIVE, 0),
    (NEGATIVE, 1),
    (NEGATIVE, 3),
    (NEGATIVE, 4),
    (POSITIVE, 8),
]


@pytest.mark.parametrize(("kind", "number"), GOLDEN_KEYS)
def test_photos_equal_the_golden_ones_within_rounding(kind: int, number: int) -> None:
    drawn = render(patient(7, kind, number), 0, side=96).astype(int)
    golden = np.asarray(Image.open(GOLDEN / f"class{kind}-patient{number}.png"), dtype=int)
    difference = np.abs(drawn - golden)
    assert difference.max() <= 2
    assert difference.mean() <= 0.1


def test_a_second_process_draws_the_very_same_photo() -> None:
    script = (
        "import hashlib; from training.synthetic import patient, render;"
        "print(hashlib.sha256(render(patient(7, 1, 2), 1, side=96).tobytes()).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == hashlib.sha256(render(patient(7, 1, 2), 1, side=96).tobytes()).hexdigest()


def test_traits_belong_to_the_patient_and_the_scene_to_the_photo() -> None:
    who = patient(7, NEGATIVE, 11)
    assert who == patient(7, NEGATIVE, 11)
    assert not np.array_equal(render(who, 0, side=64), render(who, 1, side=64))
    assert who.sub in {"chickenpox-like", "measles-like"}
    assert patient(7, POSITIVE, 11).sub == "mpox-like"
    assert patient(8, NEGATIVE, 11).stage != who.stage


def test_both_classes_have_every_skin_tone_equally_often() -> None:
    for kind in (POSITIVE, NEGATIVE):
        tones = [patient(7, kind, number).tone for number in range(60)]
        assert [tones.count(tone) for tone in range(len(TONES))] == [10] * 6


def test_knobs_set_tone_and_stage_and_leave_the_rest() -> None:
    drawn, turned = patient(7, POSITIVE, 5), patient(7, POSITIVE, 5, tone=0, stage=0.9)
    assert (turned.tone, turned.stage) == (0, 0.9)
    assert (turned.size, turned.lesions, turned.background) == (drawn.size, drawn.lesions, drawn.background)


def test_a_larger_side_shows_the_same_scene() -> None:
    who = patient(7, POSITIVE, 3)
    small = render(who, 0, side=64).astype(float)
    large = np.asarray(Image.fromarray(render(who, 0, side=192)).resize((64, 64), Image.Resampling.BOX), dtype=float)
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.8


def test_without_ambiguity_an_early_lesion_is_drawn_in_full() -> None:
    who = patient(7, POSITIVE, 3, stage=0.05)
    early, full = render(who, 0, side=64), render(who, 0, side=64, ambiguity=0.0)
    assert full.std() > early.std()


def test_a_jpeg_says_that_it_is_synthetic() -> None:
    pixels = render(patient(7, POSITIVE, 0), 0, side=128)
    with Image.open(io.BytesIO(jpeg(pixels))) as picture:
        assert picture.info["comment"] == b"SYNTHETIC"
        tagged = np.asarray(picture.convert("RGB"), dtype=int)
    strip = np.abs(tagged - pixels)[-12:, :60]
    centre = np.abs(tagged - pixels)[32:96, 32:96]
    assert strip.max() > 20  # the tag
    assert centre.mean() < 6  # JPEG's own loss alone
