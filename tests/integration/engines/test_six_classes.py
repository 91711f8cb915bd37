"""A bundle of six labels is served by the same code: written, verified, compiled, checked and asked."""

from pathlib import Path

import numpy as np
import pytest

from shared.bundle import Bundle, load_bundle
from training.novelty import fit_neighbours
from training.publish import write_bundle
from training.served import exact_engine, run
from training.synthetic import patient, render
from worker.inference.classifier import Classifier
from worker.inference.preprocess import Quality
from worker.inference.weights import load_weights

LABELS = ("mpox", "chickenpox", "measles", "cowpox", "HFMD", "healthy")
FIT = Quality(blur=500.0, exposure=0.5, size=400, flat=30.0)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("six")
    demo = load_bundle(Path(__file__).parents[3] / "models" / "demo")
    weights = load_weights(demo)
    draws = np.random.default_rng(4)
    stored = {
        **{
            name: value.astype(np.float16) if name.endswith("_conv/kernel") else value
            for name, value in weights.items()
        },
        "head/kernel": draws.normal(0, 0.5, (2048, 6)).astype(np.float32),
        "head/bias": np.zeros(6, dtype=np.float32),
    }
    photos = np.stack([render(patient(3, kind, number), 0) for kind in (0, 1) for number in range(4)])
    with_cache = folder / "cache"
    with_cache.mkdir()
    outputs = run(exact_engine({k: v.astype(np.float32) for k, v in stored.items()}, photos, with_cache), photos)
    identity = {"id": "six", "labels": list(LABELS), "clinical": False, "synthetic": True}
    calibration = {
        **identity, "temperature": 1.0, "thresholds": dict.fromkeys(LABELS, 0.5), "precisions": ["f32"],
        "gate": {"limit": 10.0},
        "quality_limits": {"blur": 0.0, "darkest": 0.0, "brightest": 1.0, "size": 1, "flat": 0.0},
    }  # fmt: skip
    write_bundle(
        folder / "bundle", weights=stored, calibration=calibration,
        gate=fit_neighbours(outputs.features, np.zeros(8, dtype=np.int64)),
        parity={"photos": photos, "logits": outputs.logits, "evidence": outputs.evidence}, card=identity,
    )  # fmt: skip
    return folder / "bundle"


def test_six_labels_are_answered_with_six_probabilities_and_a_set_of_one(six: Path, tmp_path: Path) -> None:
    bundle: Bundle = load_bundle(six)
    assert bundle.labels == LABELS
    loaded = Classifier.load(bundle, engine="openvino", precision="f32", cache=tmp_path)
    photos = np.stack([render(patient(3, 0, number), 1) for number in range(3)])
    answers = loaded.classify(photos, [FIT] * 3)
    for answer in answers:
        assert list(answer.probabilities) == list(LABELS)
        assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert answer.label == max(answer.probabilities, key=lambda name: answer.probabilities[name])
        assert (answer.outcome == "classified") == (answer.prediction_set == [answer.label])
        assert len(answer.evidence) == 49
