"""The form for bfloat16 is the same network: computed in float32 both say the same."""

from pathlib import Path

import numpy as np
import openvino as ov

from shared.bundle import load_bundle
from training.publish import to_bfloat16
from worker.inference.answers import probabilities_of
from worker.inference.engine import OUTPUTS
from worker.inference.openvino_graph import (
    first_planes,
    resnet50_for_bf16,
    rounded_to_bf16,
    usual_of,
    with_plane_of_ones,
)
from worker.inference.weights import load_reference, load_weights

PLAIN = {"INFERENCE_PRECISION_HINT": "f32"}


def test_rounding_is_to_the_nearest_of_eight_bits_and_ties_go_to_even() -> None:
    exact = np.concatenate([np.random.default_rng(7).normal(size=1000), [0.0, 1.00390625, 1.01171875, -3.0]])
    assert rounded_to_bf16(exact).tolist() == to_bfloat16(exact.astype(np.float32)).astype(np.float64).tolist()


def test_the_fourth_plane_is_ones_and_the_photo_is_untouched() -> None:
    drawn = np.random.default_rng(7).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    for photos in (drawn[:2], drawn[:1], drawn[::2], drawn[:, ::-1]):
        full = with_plane_of_ones(photos)
        assert full.dtype == np.uint8
        assert (full[..., :3] == photos).all()
        assert (full[..., 3] == 1).all()


def test_the_form_for_bf16_is_the_same_network() -> None:
    bundle = load_bundle(Path(__file__).parents[3] / "models" / "demo")
    weights, reference, core = load_weights(bundle), load_reference(bundle), ov.Core()
    planes = core.compile_model(first_planes(weights), "CPU", PLAIN)([reference.photos])[0]
    assert planes.shape == (8, 64, 56, 56)
    usual = usual_of(planes)
    assert usual.shape == (64,)
    assert np.abs(usual - planes.mean(axis=(0, 2, 3))).max() < 0.005 * np.abs(usual).max()
    network = core.compile_model(resnet50_for_bf16(weights, usual), "CPU", PLAIN)
    found = network([with_plane_of_ones(reference.photos)])
    logits, evidence = (np.asarray(found[name]) for name in OUTPUTS[:2])
    expected, given = (probabilities_of(one, bundle.calibration["temperature"]) for one in (reference.logits, logits))
    # The means' kernel is rounded where it meets the picture's border, and nothing else is.
    assert np.abs(given - expected).max() < 2e-3
    assert np.abs(evidence - reference.evidence).max() < 0.01 * np.abs(reference.evidence).max()
