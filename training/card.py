"""Owns the words of the demo bundle's card: what it is, what it was made of, what it must not be taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from shared.bundle import RESEARCH_USE
from training import dataset, learning
from training.synthetic import GENERATOR_VERSION

PROVES = "Trained and measured on generated pictures: proves the software, says nothing about patients."


def demo_card(
    identity: Mapping[str, Any], figures: Mapping[str, Any], photos: Mapping[str, int], history: Sequence[str]
) -> dict[str, Any]:
    """The card of the demo bundle, without digest and files."""
    return {
        **identity,
        "use": "research-only",
        "statement": RESEARCH_USE,
        "what_it_proves": PROVES,
        "architecture": {
            "network": "ResNet50 v1 (keras.applications), trained from scratch, average pooling, one logit per class",
            "input": "uint8 RGB [n, 224, 224, 3], the whole photo squashed by one antialiased resize",
            "outputs": {"logits": "[n, 2]", "evidence": "[n, 7, 7], for the first label", "features": "[n, 2048]"},
            "preprocessing": "caffe (BGR, means subtracted), inside the graph",
            "storage": "BatchNorm folded, kernels rounded to bfloat16 and stored as float16, the rest float32; "
            "all figures are measured on these",
        },
        "data": {
            "source": "training/synthetic.py: drawn skin and lesions, no photograph of any person",
            "generator_version": GENERATOR_VERSION,
            "seed": dataset.SEED,
            "licence": "as the software's",
            "photos_per_patient": dataset.PHOTOS_PER_PATIENT,
            "patients_per_class": {name: len(numbers) for name, numbers in dataset.SPLITS.items()},
            "photos": dict(photos),
            "split": "by patient; calibration on validation patients, every figure on test patients",
        },
        "training": {
            "seed": learning.SEED,
            "batch": learning.BATCH,
            "optimizer": "AdamW, weight decay 1e-4, cosine within each stage",
            "label_smoothing": learning.LABEL_SMOOTHING,
            "stages": [asdict(stage) for stage in learning.STAGES],
            "versions": {name: version(name) for name in ("keras", "numpy", "pillow", "openvino")},
            "history": list(history),
        },
        "metrics": {"statement": PROVES, "interval": "95 %, 2000 resamples of whole patients", **figures},
    }
