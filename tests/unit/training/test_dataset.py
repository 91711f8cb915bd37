"""No patient is in two splits, and cached photos are what the service would see."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import dataset
from worker.inference.preprocess import network_input


@pytest.mark.parametrize(("one", "other"), list(combinations(dataset.SPLITS, 2)))
def test_no_patient_is_in_two_splits(one: str, other: str) -> None:
    patients = [{(kind, number) for kind, number, _ in dataset.keys(name)} for name in (one, other)]
    assert not patients[0] & patients[1]


@pytest.mark.parametrize("split", list(dataset.SPLITS))
def test_every_split_holds_both_classes_and_every_tone_equally(split: str) -> None:
    kinds = [kind for kind, _, _ in dataset.keys(split)]
    assert kinds.count(0) == kinds.count(1)
    assert len(dataset.SPLITS[split]) % 6 == 0


def test_photos_are_rendered_once_and_pass_through_jpeg_and_the_shared_resize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dataset.SPLITS, "test", range(486, 487))
    first = dataset.photos("test", tmp_path, processes=1)
    assert first.pixels.shape == (4, 224, 224, 3)
    assert first.kinds.tolist() == [0, 0, 1, 1]
    assert first.patients.tolist() == [972, 972, 973, 973]
    with Image.open(io.BytesIO(dataset.photograph(1, 486, 1))) as picture:
        assert np.array_equal(first.pixels[3], network_input(picture))
    stamp = next(tmp_path.iterdir()).stat().st_mtime_ns
    assert np.array_equal(dataset.photos("test", tmp_path).pixels, first.pixels)
    assert next(tmp_path.iterdir()).stat().st_mtime_ns == stamp
