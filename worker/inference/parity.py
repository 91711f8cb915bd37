"""Owns the check that a compiled engine answers as the bundle's reference does, before it may answer anyone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle
from shared.errors import ParityFailed
from worker.inference.answers import probabilities_of, temperature_of
from worker.inference.compiled import RECORD, identity
from worker.inference.engine import Engine
from worker.inference.weights import load_reference

# Largest difference of a calibrated probability; measured over photo-like images, with room.
BOUNDS = {"f32": 1e-4, "f16": 1e-2, "bf16": 1e-2, "int8": 3e-2}
# The share of photos of its proof on which int8 must give the label of float32.
AGREEMENT = 0.995


def check_parity(engine: Engine, bundle: Bundle, cache: Path) -> float:
    """The largest difference of a calibrated probability over the bundle's reference photos.

    1. Runs the reference photos through the engine, together and some of them in each size that it names: so each is
       proved, and the engine has the memory for them before it serves.
    2. Writes the record (digest, engine, precision, processor, difference, measurements) beside the compiled engine.
    3. Raises ParityFailed beyond the bound of the engine's precision, or where a label differs.
    """
    reference = load_reference(bundle)
    temperature = temperature_of(bundle, engine.precision)
    expected = probabilities_of(reference.logits, temperature)
    difference, flipped = 0.0, 0
    for size in (len(expected), *engine.first_met):
        found = probabilities_of(engine.infer(reference.photos[:size]).logits, temperature)
        apart = float(np.abs(found - expected[:size]).max()) if np.isfinite(found).all() else float("inf")
        difference = max(difference, apart)
        flipped = max(flipped, int((found.argmax(axis=1) != expected[:size].argmax(axis=1)).sum()))
    passed = difference <= BOUNDS[engine.precision] and not flipped
    record = {
        **identity(bundle, engine.name, engine.precision),
        "passed": passed,
        "max_difference": difference if np.isfinite(difference) else None,
        "flipped_labels": flipped,
        **engine.measured,
    }
    (cache / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not passed:
        raise ParityFailed(
            f"{engine.name} in {engine.precision} differs from the reference of bundle {bundle.id} by {difference:.2g} "
            f"({BOUNDS[engine.precision]:g} allowed) and flips {flipped} of {len(expected)} labels on this processor: "
            "choose another precision or engine."
        )
    return difference


def largest_difference(one: NDArray[np.float32], other: NDArray[np.float32], temperature: float) -> float:
    """The largest difference of a calibrated probability between two sets of logits."""
    return float(np.abs(probabilities_of(one, temperature) - probabilities_of(other, temperature)).max())
