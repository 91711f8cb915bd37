"""Owns the running of a bundle over many photos, as evaluation and calibration need it: numbers first, then answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle, load_bundle
from worker.inference.answers import Answer, Calibration, answers_from, probabilities_of
from worker.inference.engine import OUTPUTS, Engine, Outputs
from worker.inference.openvino_engine import OpenVinoEngine
from worker.inference.preprocess import Quality
from worker.inference.weights import Weights, load_reference, load_weights

_AT_ONCE = 32


def run(engine: Engine, pixels: NDArray[np.uint8]) -> Outputs:
    """Outputs of any number of photos [n, 224, 224, 3], in batches."""
    parts = [engine.infer(pixels[at : at + _AT_ONCE]) for at in range(0, len(pixels), _AT_ONCE)]
    return Outputs(*(np.concatenate([getattr(p, n) for p in parts]) for n in OUTPUTS))


def exact_engine(weights: Weights, seen: NDArray[np.uint8], cache: Path) -> OpenVinoEngine:
    """The network in float32 without TensorFlow; the same bits for a photo in any batch and on every run."""
    return OpenVinoEngine(weights, seen=seen, precision="f32", threads=0, cache=cache)


@dataclass(frozen=True)
class Asked:
    """Photos by their rows of the manifest [n], and what the network says of them: asked once for all who use it."""

    rows: NDArray[np.intp]
    pixels: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    patients: NDArray[Any]
    outputs: Outputs

    def at(self, chosen: NDArray[np.intp]) -> Asked:
        """Some of the photos, by their place: the outputs are, to the bit, those of asking again."""
        said = Outputs(*(getattr(self.outputs, name)[chosen] for name in OUTPUTS))
        return Asked(self.rows[chosen], self.pixels[chosen], self.kinds[chosen], self.patients[chosen], said)


@dataclass(frozen=True)
class Served:
    """A bundle behind its engine in float32."""

    bundle: Bundle
    weights: Weights
    engine: Engine
    rules: Calibration

    @classmethod
    def load(cls, path: Path, cache: Path) -> Self:
        """Raises BundleMissing or BundleAltered."""
        bundle = load_bundle(path)
        weights = load_weights(bundle)
        engine = exact_engine(weights, load_reference(bundle).photos, cache)
        return cls(bundle, weights, engine, Calibration.of(bundle))

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """What the network says of photos [n, 224, 224, 3]."""
        return run(self.engine, pixels)

    def probabilities(self, outputs: Outputs) -> NDArray[np.float64]:
        """Calibrated probabilities [n, classes]."""
        return probabilities_of(outputs.logits, self.rules.temperature)

    def answers(self, outputs: Outputs, qualities: Sequence[Quality]) -> list[Answer]:
        """Answers as the service gives them."""
        return answers_from(outputs, qualities, self.rules)
