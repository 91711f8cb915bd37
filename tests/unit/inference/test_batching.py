"""A GPU is fed batches of one size, chosen by measuring; what pads them never shows."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.inference.batching import as_record, chosen_size, in_shapes, measured_seconds, padded


class Device:
    """Computes sums of photos and keeps a clock of its own: a batch takes what the table says."""

    def __init__(self, table: dict[int, float], room: int = 1024) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self._table, self._room = table, room

    def run(self, photos: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        if len(photos) > self._room:
            raise MemoryError
        self.sizes.append(len(photos))
        self.now += self._table.get(len(photos), 0.0)
        sums = photos.sum(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
        return sums[:, None], np.broadcast_to(sums[:, None, None], (len(photos), 7, 7)), sums[:, None] * 2

    def measured(self, *sizes: int) -> dict[int, float]:
        return measured_seconds(self.run, sizes=sizes, exhausted=(MemoryError,), clock=lambda: self.now)


def photos(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        ({8: 0.010}, 8),
        ({8: 0.010, 16: 0.011, 32: 0.013, 64: 0.025}, 32),  # 2462 a second are within 5 % of 2560
        ({8: 0.010, 16: 0.020, 32: 0.040}, 8),  # no gain: the smallest
        ({8: 0.010, 16: 0.0196, 32: 0.0382}, 8),  # 800, 816, 838: 800 is within 5 % of 838
        ({8: 0.010, 16: 0.0196, 32: 0.0376}, 16),  # 800, 816, 851: 800 is not
        ({8: 0.010, 16: 0.012, 32: 0.040}, 16),  # larger ones may be slower
    ],
)
def test_the_smallest_batch_within_five_percent_of_the_best_is_chosen(seconds: dict[int, float], size: int) -> None:
    assert chosen_size(seconds) == size


def test_each_size_is_timed_after_one_call_that_compiles() -> None:
    device = Device({8: 1.0, 16: 1.2})
    assert device.measured(8, 16) == pytest.approx({8: 1.0, 16: 1.2})
    assert device.sizes == [8] * 4 + [16] * 4


def test_measuring_ends_where_a_larger_batch_gains_nothing() -> None:
    assert list(Device({8: 1.0, 16: 1.2, 32: 2.39, 64: 2.4}).measured(8, 16, 32, 64)) == [8, 16, 32]


def test_measuring_ends_where_the_device_has_no_room() -> None:
    assert list(Device({8: 1.0, 16: 1.2, 32: 1.3}, room=16).measured(8, 16, 32)) == [8, 16]


def test_a_device_without_room_for_the_smallest_batch_is_an_error() -> None:
    with pytest.raises(MemoryError):
        Device({}, room=4).measured(8, 16)


def test_the_record_names_the_device_the_batch_and_every_rate() -> None:
    assert as_record("Some GPU", {8: 0.01, 16: 0.012}) == {
        "device": "Some GPU",
        "batch": 16,
        "photos_per_second": {"8": 800.0, "16": 1333.3},
    }


def test_padding_keeps_the_photos_and_adds_black_ones() -> None:
    some = photos(3)
    full = padded(some, 8)
    assert full.shape == (8, 4, 4, 3)
    assert full.dtype == np.uint8
    assert (full[:3] == some).all()
    assert not full[3:].any()


@pytest.mark.parametrize(
    ("count", "sizes", "run"),
    [
        (1, (8,), [8]),
        (8, (8,), [8]),
        (9, (8,), [8, 8]),
        (1, (2, 8, 32), [2]),
        (3, (2, 8, 32), [8]),
        (33, (2, 8, 32), [32, 2]),
        (70, (2, 8, 32), [32, 32, 8]),
    ],
)
def test_any_number_of_photos_runs_in_the_given_sizes_alone_and_comes_back_whole(
    count: int, sizes: tuple[int, ...], run: list[int]
) -> None:
    device = Device({})
    found = in_shapes(device.run, photos(count), sizes)
    sums = photos(count).sum(axis=(1, 2, 3)).astype(np.float32)
    assert device.sizes == run
    assert found.logits[:, 0].tolist() == sums.tolist()
    assert found.evidence.shape == (count, 7, 7)
    assert found.features[:, 0].tolist() == (sums * 2).tolist()
