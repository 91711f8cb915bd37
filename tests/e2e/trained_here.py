"""Trains a network on drawn photos, and writes what the network it trained says of each, as Keras computes it.

The bundle's weights are rounded before anything is measured of them, so it is the rounded ones that are asked.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.bundle import WEIGHTS, load_bundle
from training import manifest, shipping
from training.backbone import find_start
from training.casting import Plan
from training.config import Network, read_config
from training.pictures import look_at_all
from training.runs import BUNDLE
from training.synthesis import synthesise
from training.training_run import train
from training.trunk import build
from worker.inference.answers import probabilities_of, temperature_of

ID = "trained-here"
#: Photos of both sides of the split.
ASKED = 12
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


def main(folder: Path) -> None:
    """Leave photos, run and ``said.npz``: the names of some photos, and the probabilities [n, labels] of each."""
    import tensorflow as tf  # every process of tests reads this module, and one of them trains

    photos = folder / "photos"
    synthesise(Plan(layout="msld-v1", patients=6, copies=1), photos)
    frame = manifest.build(photos, folds=3)
    manifest.write(frame, photos / "manifest.csv")
    source = folder / "train.toml"
    source.write_text(CONFIG.replace('"photos"', f'"{photos}"'), encoding="utf-8")
    config = read_config(source)
    # Which pictures choose the gate, and how long a photo takes, are other tests' questions.
    fewer = pytest.MonkeyPatch()
    fewer.setattr(shipping, "PROBES", 1)
    fewer.setattr(shipping, "_TIMED", 1)
    # A handful of steps is taken sooner than a graph is drawn of one.
    tf.config.run_functions_eagerly(True)
    train(config, folder / "run", source=source, resume=False)
    bundle = load_bundle(folder / "run" / BUNDLE)
    start = find_start(Network(id=ID, weights=f"bundle:{bundle.path}"))
    network = build(len(bundle.labels), start, 0, dropout=config.recipe.dropout, precision="float32")
    stored = load_file(bundle.path / WEIGHTS)
    network.get_layer("head").set_weights([stored["head/kernel"], stored["head/bias"]])
    names = frame["image"].iloc[np.linspace(0, len(frame) - 1, ASKED).astype(int)].tolist()
    pixels, _ = look_at_all(photos, names)
    logits = network.predict(pixels, batch_size=ASKED, verbose=0)
    probabilities = probabilities_of(np.asarray(logits), temperature_of(bundle, "f32"))
    np.savez(folder / "said.npz", photos=np.array(names), probabilities=probabilities)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
