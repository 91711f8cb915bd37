"""Trains one tiny network in the folder given, going on where it was; prints a line after each epoch."""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.backbone import find_start
from training.config import Network, Recipe
from training.member import MemberTraining, Watch
from training.runs import save_arrays
from training.splits import Split
from training.trunk import build

if __name__ == "__main__":
    tf.config.experimental.enable_op_determinism()
    folder = Path(sys.argv[1])
    recipe = Recipe(side=32, batch=4, head_epochs=2, tune_epochs=2, tune_rate=1e-4)
    start = find_start(Network(id="tiny", weights="bundle:models/demo"))
    draws = np.random.default_rng(1)
    pixels = draws.integers(0, 256, (14, 32, 32, 3), dtype=np.uint8)
    kinds = np.arange(14) % 2
    split = Split(np.arange(8), np.arange(8, 14), np.arange(0))
    model = build(2, start, 7, dropout=recipe.dropout, precision="float32")
    watch = Watch(lambda text: print(text, flush=True))
    MemberTraining(model, recipe, start, folder, watch).run(pixels, kinds, split, 7)
    save_arrays(folder / "final.npz", **{f"w{at}": np.array(v) for at, v in enumerate(model.weights)})
