"""What training does to photos before it sees them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.augmentation import PICTURES, batches
from training.pictures import resized
from training.synthetic import NEGATIVE, POSITIVE, patient, render

ROWS = np.arange(8)
# Of pictures number 1, at 8 pixels and seed (11, 4): which photo comes when, and two greens of each.
ORDER = [4, 1, 5, 6, 2, 0, 3, 7]
GREENS = [[157, 166], [181, 230], [175, 159], [107, 117], [180, 148], [169, 154], [141, 145], [102, 110]]


@pytest.fixture(scope="module")
def photos() -> NDArray[np.uint8]:
    return np.stack(
        [render(patient(7, kind, number), 0, side=224) for number in range(4) for kind in (POSITIVE, NEGATIVE)]
    )


def _epoch(
    photos: NDArray[np.uint8], *, side: int, seed: tuple[int, int] = (3, 0)
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    truth, weights = np.eye(8, dtype=np.float32), np.ones(8, dtype=np.float32)
    ((seen, rows, _),) = batches(photos, truth, weights, ROWS, side=side, batch=8, seed=seed).as_numpy_iterator()
    return seen, rows


def _detail(photos: NDArray[np.uint8]) -> float:
    grey = photos.astype(float).mean(axis=3)
    return float(np.abs(np.diff(grey, axis=1)).mean() + np.abs(np.diff(grey, axis=2)).mean())


def test_small_photos_keep_the_detail_of_those_that_training_is_validated_on(photos: NDArray[np.uint8]) -> None:
    seen, _ = _epoch(photos, side=96)
    assert seen.shape == (8, 96, 96, 3)
    assert _detail(seen) > 0.8 * _detail(resized(photos, 96))


def test_an_epoch_is_the_same_whenever_it_runs_and_no_other(photos: NDArray[np.uint8]) -> None:
    (first, rows), (again, _), (next_one, _) = (_epoch(photos, side=224, seed=(3, epoch)) for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_one)
    unchanged = photos[rows.argmax(axis=1)]
    assert (first != unchanged).any(axis=(1, 2, 3)).all(), "a photo was left as it is"


def test_pictures_are_those_of_their_number(photos: NDArray[np.uint8]) -> None:
    """A run that goes on must see what it began with: whoever changes pictures counts PICTURES on, and this."""
    seen, rows = _epoch(photos, side=8, seed=(11, 4))
    assert (PICTURES, rows.argmax(axis=1).tolist()) == ("1", ORDER)
    assert np.abs(seen[:, 2::4, 3, 1].astype(int) - GREENS).max() <= 2, seen[:, 2::4, 3, 1].tolist()
