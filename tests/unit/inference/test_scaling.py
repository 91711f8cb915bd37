"""Scaling channels between layers changes no answer, and what does not fit the network is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from shared.bundle import load_bundle
from shared.errors import EngineRefused
from worker.inference.openvino_graph import resnet50
from worker.inference.scaling import joints, scaled, scales_for
from worker.inference.weights import Weights, load_reference, load_weights

BUNDLE = load_bundle(Path(__file__).parents[3] / "models" / "demo")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(BUNDLE)


def logits(weights: Weights, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
    compiled = ov.Core().compile_model(resnet50(weights), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([photos])["logits"])


def test_a_network_with_any_scales_at_all_joints_says_the_same(weights: Weights) -> None:
    drawn = np.random.default_rng(5)
    scales = {
        name: drawn.uniform(0.1, 1, weights[f"{joint.makers[0]}_bn/gamma"].shape).tolist()
        for name, joint in joints().items()
    }
    photos = load_reference(BUNDLE).photos[:1]
    new = scaled(weights, scales)
    assert np.abs(logits(new, photos) - logits(weights, photos)).max() < 1e-3
    assert {name for name in weights if new[name] is not weights[name]} == {
        f"{layer}_{part}"
        for joint in joints().values()
        for layer, part in (
            *((maker, part) for maker in joint.makers for part in ("bn/gamma", "bn/beta")),
            *((reader, "conv/kernel") for reader in joint.readers),
        )
    }


def test_without_scales_the_weights_are_the_very_same(weights: Weights) -> None:
    assert scaled(weights, {}) is weights


@pytest.mark.parametrize("scales", [{"conv1": [1.0] * 63}, {"conv9": [1.0]}, {"conv2_block1_3": [1.0] * 256}])
def test_scales_for_another_network_are_refused(weights: Weights, scales: dict[str, Sequence[float]]) -> None:
    with pytest.raises(EngineRefused, match="quantise the bundle again"):
        scaled(weights, scales)


def test_small_channels_are_enlarged_half_of_the_way_and_silent_ones_not_without_end() -> None:
    assert scales_for(np.array([16, 4, 1, 0], dtype=np.float32)) == [1.0, 0.5, 0.25, 0.1]
    assert scales_for(np.zeros(2, dtype=np.float32)) == [0.1, 0.1]
