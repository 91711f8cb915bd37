"""Owns the command that makes the demo bundle: photos, training, rounding, calibration, evaluation, files."""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.bundle import load_bundle
from training import dataset
from training.calibration import calibrate
from training.card import demo_card
from training.evaluation import abstention, evaluate, subgroups
from training.learning import learn, network
from training.probes import FAMILIES, probe
from training.publish import rounded, widened, write_bundle, write_card
from training.synthetic import jpeg
from worker.inference.answers import Calibration, answers_from, probabilities_of
from worker.inference.engine import Engine, Outputs
from worker.inference.openvino_engine import OpenVinoEngine, bf16_here
from worker.inference.parity import BOUNDS, largest_difference
from worker.inference.preprocess import Quality, measure_quality, network_input
from worker.inference.tensorflow_engine import TensorFlowEngine

log = logging.getLogger(__name__)
LABELS = ("mpox (synthetic)", "other (synthetic)")
IDENTITY: dict[str, Any] = {"id": "demo-synthetic", "labels": list(LABELS), "clinical": False, "synthetic": True}
PROBES_PER_FAMILY = 24
REFERENCES = 8
_CLEAR = 0.15


def run(engine: Engine, pixels: NDArray[np.uint8]) -> Outputs:
    """Outputs of any number of photos, in batches."""
    parts = [engine.infer(pixels[at : at + 32]) for at in range(0, len(pixels), 32)]
    return Outputs(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("logits", "evidence", "features")))


def probes() -> tuple[NDArray[np.uint8], list[Quality], list[str]]:
    """Pictures without skin as JPEG uploads: network inputs, qualities and families."""
    pixels, qualities, families = [], [], []
    for family in FAMILIES:
        for number in range(PROBES_PER_FAMILY):
            with Image.open(io.BytesIO(jpeg(probe(dataset.SEED, family, number)))) as picture:
                pixels.append(network_input(picture))
                qualities.append(measure_quality(picture, shorter_side=min(picture.size)))
            families.append(family)
    return np.stack(pixels), qualities, families


def references(outputs: Outputs, photos: dataset.Photos, temperature: float) -> dict[str, NDArray[Any]]:
    """Eight photos of eight test patients, both classes, none of them a coin toss that bf16 may flip."""
    clear = np.abs(probabilities_of(outputs.logits, temperature)[:, 0] - 0.5) > _CLEAR
    chosen: list[int] = []
    for kind in (0, 1):
        fit = [int(i) for i in np.flatnonzero(clear & (photos.kinds == kind)) if i % dataset.PHOTOS_PER_PATIENT == 0]
        chosen += [fit[i] for i in np.linspace(0, len(fit) - 1, REFERENCES // 2).astype(int)]
    picked = np.array(chosen)
    return {"photos": photos.pixels[picked], "logits": outputs.logits[picked], "evidence": outputs.evidence[picked]}


def _qualities(split: str) -> list[Quality]:
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(dataset.quality, dataset.keys(split), chunksize=8))


def engines_agree(
    weights: Any, seen: NDArray[np.uint8], test: dataset.Photos, reference: Outputs, temperature: float
) -> dict[str, Any]:
    """How far each precision of the compiled engine strays from Keras in float32 over the test photos.

    A precision is proved where no photo's probability moves by more than the bound that is checked at each load.
    """
    found = {}
    for precision in ("f32", "bf16") if bf16_here() else ("f32",):
        with tempfile.TemporaryDirectory() as cache:
            engine = OpenVinoEngine(weights, seen=seen, precision=precision, threads=0, cache=Path(cache))
            logits = run(engine, test.pixels).logits
        strays = largest_difference(logits, reference.logits, temperature)
        found[precision] = {
            "proved": strays <= BOUNDS[precision],
            "max_probability_difference": float(f"{strays:.3g}"),
            "flipped_labels": int((logits.argmax(1) != reference.logits.argmax(1)).sum()),
        }
    return found


def publish(checkpoint: Path, work: Path, out: Path, *, history: Sequence[str]) -> None:
    """Makes the bundle of a checkpoint.

    1. Rounds the weights as they are stored; only the rounded ones are used from here on.
    2. Fits temperature, thresholds, gate and limits on validation patients.
    3. Writes the sealed files, reads them back, and measures everything on test patients and probes.
    4. Writes the card.
    """
    model = network(len(LABELS))
    model.load_weights(checkpoint)
    stored = rounded(model)
    engine = TensorFlowEngine(widened(stored), precision="f32", threads=0)
    splits = {name: dataset.photos(name, work / "photos") for name in ("train", "validation", "test")}
    outputs = {name: run(engine, photos.pixels) for name, photos in splits.items()}
    validation, test = splits["validation"], splits["test"]
    calibration, gate = calibrate(
        LABELS,
        outputs["validation"].logits,
        validation.kinds,
        train_features=outputs["train"].features,
        train_kinds=splits["train"].kinds,
        features=outputs["validation"].features,
        seen=_qualities("validation"),
    )
    temperature = calibration["temperature"]
    parity = references(outputs["test"], test, temperature)
    compiled = engines_agree(widened(stored), parity["photos"], test, outputs["test"], temperature)
    calibration["precisions"] = [name for name, found in compiled.items() if found["proved"]]
    write_bundle(out, weights=stored, calibration={**IDENTITY, **calibration}, gate=gate, parity=parity,
                 card=IDENTITY)  # fmt: skip
    rules = Calibration.of(load_bundle(out))
    answers = answers_from(outputs["test"], _qualities("test"), rules)
    pixels, qualities, families = probes()
    figures = {
        "test": evaluate(answers, test.kinds, test.patients),
        "subgroups": subgroups(answers, test.kinds, test.stages, test.tones),
        "probes_without_skin": abstention(answers_from(run(engine, pixels), qualities, rules), families),
        "engines": {f"openvino {name}": found for name, found in compiled.items()},
    }
    card = demo_card(IDENTITY, figures, {name: len(photos.kinds) for name, photos in splits.items()}, history)
    log.info("bundle %s: %s", write_card(out, card), figures)


def main() -> None:
    """Trains, or takes a checkpoint, and publishes the bundle."""
    parser = argparse.ArgumentParser(prog="python -m training.demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--work", type=Path, required=True, help="folder for rendered photos and checkpoints")
    parser.add_argument("--precision", default="mixed_bfloat16", choices=["float32", "mixed_bfloat16"])
    parser.add_argument("--start", type=int, nargs=2, default=(0, 0), metavar=("STAGE", "EPOCH"), help="take up here")
    parser.add_argument("--checkpoint", type=Path, help="publish this checkpoint instead of training")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    checkpoint, history, began = asked.checkpoint, [], time.monotonic()
    if checkpoint is None:
        train, validation = (dataset.photos(name, asked.work / "photos") for name in ("train", "validation"))
        checkpoint = learn(
            train, validation, asked.work / "checkpoints", precision=asked.precision, start=tuple(asked.start)
        )
        history = [f"trained in {(time.monotonic() - began) / 60.0:.0f} minutes, {asked.precision}"]
    publish(checkpoint, asked.work, asked.out, history=history)


if __name__ == "__main__":
    main()
