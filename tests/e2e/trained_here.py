"""Trains a network on drawn photos, and writes what the network it trained says of photos it never saw.

It is the very network whose steps were taken that is asked, in the process that took them: once as it came out of the
last step, and once with the weights that were stored of it, since those are rounded before anything is measured. So is
the exported bundle in the engine of TensorFlow, which is loaded here anyway.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from shared.bundle import WEIGHTS, load_bundle
from training import manifest, shipping, training_run
from training.calibration import fit_temperature
from training.casting import Plan
from training.config import read_config
from training.pictures import look_at_all
from training.publish import rounded, widened
from training.runs import BUNDLE, TEST, load_run, save_arrays
from training.synthesis import synthesise
from training.trunk import trunk_of
from worker.inference.answers import probabilities_of
from worker.inference.classifier import Classifier
from worker.inference.tensorflow_engine import load_by_name

ID = "trained-here"
#: Drawn like those it learns from, with another seed: nobody in them was seen in training.
HELD_OUT = Plan(layout="msld-v1", patients=3, copies=0, seed=1307)
#: What comes of it, beside the run.
PHOTOS, SAID = "held-out", "said.npz"
CONFIG = f"""
[data]
folder = "photos"
classes = ["Monkeypox", "*"]
licence = "as the software's"
split = "named"
[network]
id = "{ID}"
weights = "bundle:models/demo"
[recipe]
side = 32
batch = 8
head_epochs = 1
tune_epochs = 1
"""


class Keeping:
    """Stores a trained network as `training.publish.rounded` does, and keeps it."""

    def __init__(self) -> None:
        self.network: Any = None

    def __call__(self, network: Any) -> dict[str, NDArray[Any]]:
        self.network = network
        return rounded(network)


def main(folder: Path) -> None:
    """Leave the run, held-out photos, and what is said of them: their names, and probabilities [n, labels] by whom."""
    import tensorflow as tf  # every process of tests reads this module, and one of them trains

    photos, held_out = folder / "photos", folder / PHOTOS
    synthesise(Plan(layout="msld-v1", patients=8, copies=1), photos)
    synthesise(HELD_OUT, held_out)
    manifest.write(manifest.build(photos, folds=3), photos / "manifest.csv")
    source = folder / "train.toml"
    source.write_text(CONFIG.replace('"photos"', f'"{photos}"'), encoding="utf-8")
    # Which pictures choose the gate, and how long a photo takes, are other tests' questions.
    fewer, keeping = pytest.MonkeyPatch(), Keeping()
    fewer.setattr(shipping, "PROBES", 1)
    fewer.setattr(shipping, "_TIMED", 1)
    fewer.setattr(training_run, "rounded", keeping)
    # A handful of steps is taken sooner than a graph is drawn of one.
    tf.config.run_functions_eagerly(True)
    training_run.train(read_config(source), folder / "run", source=source, resume=False)
    bundle = load_bundle(folder / "run" / BUNDLE)
    run = load_run(folder / "run")
    judged = run.shipped.rows(TEST)
    temperature = fit_temperature(run.shipped.logits[judged], run.kinds[judged])
    names = manifest.build(held_out, folds=3)["image"].tolist()
    pixels, _ = look_at_all(held_out, names)
    learnt = keeping.network.predict(pixels, batch_size=len(pixels), verbose=0)
    put_stored(keeping.network, widened(load_file(bundle.path / WEIGHTS)))
    stored = keeping.network.predict(pixels, batch_size=len(pixels), verbose=0)
    tf.config.run_functions_eagerly(False)
    engine = Classifier.load(bundle, engine="tensorflow", precision="f32", cache=folder / "tensorflow").engine
    said = {"learnt": learnt, "stored": stored, "tensorflow": engine.infer(pixels).logits}
    found = {by: probabilities_of(np.asarray(logits), temperature) for by, logits in said.items()}
    save_arrays(folder / SAID, photos=np.array(names), **found)


def put_stored(network: Any, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the network that was trained to the weights that were stored of it."""
    load_by_name(trunk_of(network), weights)
    network.get_layer("head").set_weights([weights["head/kernel"], weights["head/bias"]])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
