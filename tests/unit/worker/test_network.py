"""Micro-batches before the network: two at once, and answers in the order in which photos were put in."""

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from worker.inference.classifier import Classifier
from worker.network import Network, Photo, batch_size


class Meeting:
    """A classifier that answers nobody before two batches are in it."""

    bundle = None

    def __init__(self) -> None:
        self._both = threading.Barrier(2, timeout=20)

    def classify(self, pixels: Any, quality: Sequence[Any]) -> list[Any]:
        """Answer with the first value of each photo."""
        self._both.wait()
        return [int(photo.flat[0]) for photo in pixels]


class Decoded:
    """A photo of one value."""

    def __init__(self, value: int) -> None:
        self.pixels, self.quality = np.full((2, 2, 3), value, np.uint8), None


def photos(*values: int) -> list[Photo]:
    return [Photo(cast("Any", None), cast("Any", None), cast("Any", Decoded(value))) for value in values]


def test_two_micro_batches_are_under_way_and_come_out_in_order() -> None:
    network, meeting = Network(), cast("Classifier", Meeting())
    network.put(meeting, photos(1, 2))
    assert list(network.seen()) == []
    network.put(meeting, photos(3))
    found: list[Any] = [answer for seen in network.seen(all_of_it=True) for _, answer, _ in seen.found]
    assert found == [1, 2, 3]
    network.close()


@pytest.mark.parametrize(
    ("rate", "threads", "most", "size"),
    [
        (0.01, 2, 64, 4),  # a machine that others keep busy: still two for each thread
        (23.0, 2, 64, 4),
        (47.0, 2, 64, 4),  # not 5: the fifth would have one thread wait for the other
        (53.0, 2, 64, 6),
        (28.0, 1, 64, 3),
        (450.0, 16, 64, 48),
        (450.0, 16, 32, 32),
        (5.0, 16, 8, 8),
        (100.0, 2, 1, 1),
    ],
)
def test_a_micro_batch_is_a_tenth_of_a_second_of_work_that_shares_out_evenly(
    rate: float, threads: int, most: int, size: int
) -> None:
    assert batch_size(rate, threads=threads, most=most) == size
