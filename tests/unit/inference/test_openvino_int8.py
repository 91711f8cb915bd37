"""The first convolution in int8 reads the photo's own bytes, and its kernels' errors cancel where a picture is flat."""

from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from shared.bundle import load_bundle
from worker.inference.openvino_graph import first_planes
from worker.inference.openvino_int8 import Rounding, cancelling, exact_convolutions, resnet50_int8, with_means_around
from worker.inference.weights import MEANS, Weights, load_reference, load_weights

BUNDLE = load_bundle(Path(__file__).parents[3] / "models" / "demo")
CONVOLUTIONS = 53


def computed(model: ov.Model, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([photos])[0])


def first_planes_int8(weights: Weights) -> ov.Model:
    """The int8 network up to its first pooling."""
    model = resnet50_int8(weights, Rounding({}))
    pooled = next(one for one in model.get_ordered_ops() if one.get_type_name() == "MaxPool")
    return ov.Model([pooled.output(0)], model.get_parameters(), "first")


def test_errors_of_a_kernel_sum_to_half_a_step_at_most_in_each_plane() -> None:
    kernel = np.random.default_rng(5).normal(size=(64, 3, 7, 7)).astype(np.float32)
    step = np.abs(kernel).max(axis=(1, 2, 3)) / 127
    apart = np.abs((cancelling(kernel) - kernel).sum(axis=(2, 3))).max(axis=1) / step
    assert apart.max() <= 0.5 + 1e-3
    nearest = np.rint(kernel / step[:, None, None, None]) * step[:, None, None, None]
    usual = np.abs((nearest - kernel).sum(axis=(2, 3))).max(axis=1) / step
    assert usual.max() > 1, "rounded to the nearest they add up"
    steps = cancelling(kernel) / step[:, None, None, None]
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert np.abs(steps).max() <= 127 + 1e-3


def test_a_kernel_of_noughts_stays_one() -> None:
    assert not cancelling(np.zeros((2, 3, 7, 7), dtype=np.float32)).any()


def test_the_first_planes_in_int8_are_those_of_float32_up_to_the_picture_s_border() -> None:
    weights, photos = load_weights(BUNDLE), load_reference(BUNDLE).photos[:2]
    exact = computed(first_planes(weights), photos)
    found = computed(first_planes_int8(weights), with_means_around(photos))
    assert found.shape == exact.shape
    apart = np.abs(found - exact)
    assert apart[..., 2:-2, 2:-2].mean() < 6e-3 * exact.std(), "rounded to the nearest it is three times as much"
    assert apart.max() < 0.05 * exact.max()
    assert apart.any(), "kernels were rounded"


def test_a_photo_lies_in_a_border_of_the_means_and_is_untouched() -> None:
    photos = np.random.default_rng(5).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    around = with_means_around(photos)
    assert around.shape == (2, 230, 230, 3)
    assert (around[:, 3:-3, 3:-3] == photos).all()
    around[:, 3:-3, 3:-3] = np.rint(MEANS)
    assert (around == np.rint(MEANS)).all()


def test_without_ranges_the_first_convolution_alone_is_rounded() -> None:
    assert exact_convolutions(resnet50_int8(load_weights(BUNDLE), Rounding({}))) == CONVOLUTIONS - 1
