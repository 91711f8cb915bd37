"""What photos tell int8 before anything is rounded."""

from pathlib import Path

import numpy as np

from shared.bundle import load_bundle
from training.rounding import find_scales, from_convolution
from worker.inference.scaling import joints
from worker.inference.weights import load_reference, load_weights

# Two blocks as the network has them: a shortcut (10) with its three, a sum; three, a sum.
CONVOLUTIONS = [2, 10, 12, 14, 16, 20, 22, 24]
FOUND = {
    "op4/0": [0.0, 1.0],
    "op14/0": [0.0, 1.0],
    "op16/0": [0.0, 1.0],
    "op18/0": [-1.0, 1.0],
    "op20/0": [0.0, 1.0],
    "op24/0": [0.0, 1.0],
    "op26/0": [0.0, 1.0],
}


def test_all_ranges_count_from_the_first_convolution_and_later_ones_alone_from_a_later_one() -> None:
    assert from_convolution(CONVOLUTIONS, FOUND, 0) == FOUND
    assert set(from_convolution(CONVOLUTIONS, FOUND, 5)) == {"op20/0", "op24/0", "op26/0"}


def test_what_is_added_to_an_exact_shortcut_stays_exact() -> None:
    assert set(from_convolution(CONVOLUTIONS, FOUND, 1)) == set(FOUND) - {"op4/0", "op18/0"}
    assert set(from_convolution(CONVOLUTIONS, FOUND, 4)) == set(FOUND) - {"op4/0", "op14/0", "op18/0"}
    assert "op18/0" in from_convolution(CONVOLUTIONS, FOUND | {"op10/0": [0.0, 1.0]}, 1)


def test_scales_are_found_for_every_joint_and_a_channel_that_grows_larger_is_divided_by_more() -> None:
    bundle = load_bundle(Path(__file__).parents[3] / "models" / "demo")
    weights, photos = load_weights(bundle), load_reference(bundle).photos[:1]
    scales = find_scales(weights, photos)
    assert {name: len(numbers) for name, numbers in scales.items()} == {
        name: len(weights[f"{joint.makers[0]}_bn/gamma"]) for name, joint in joints().items()
    }
    assert all(max(numbers) == 1 and min(numbers) >= 0.1 for numbers in scales.values())
    channel = int(np.argmin(np.abs(np.array(scales["conv1"]) - 0.5)))
    larger = dict(weights)
    for part in ("gamma", "beta"):
        factor = np.ones_like(weights[f"conv1_bn/{part}"])
        factor[channel] = 2
        larger[f"conv1_bn/{part}"] = weights[f"conv1_bn/{part}"] * factor
    found = find_scales(larger, photos)["conv1"]
    assert abs(found[channel] - scales["conv1"][channel] * 2**0.5) < 2e-3
    assert found[:channel] == scales["conv1"][:channel]
