"""Trains one tiny network in the folder given, going on where it was; prints a line after each epoch.

A second argument is the number of devices to train on, parts of the CPU; without it there is one.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.backbone import find_start
from training.config import Network, Recipe
from training.event_log import EventLog
from training.hardware import strategy_over
from training.member import MemberTraining, Watch
from training.runs import save_arrays
from training.splits import Split
from training.trunk import build

if __name__ == "__main__":
    tf.config.experimental.enable_op_determinism()
    devices = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    folder = Path(sys.argv[1])
    recipe = Recipe(side=32, batch=4, head_epochs=2, tune_epochs=2, tune_rate=1e-4)
    start = find_start(Network(id="tiny", weights="bundle:models/demo"))
    draws = np.random.default_rng(1)
    pixels = draws.integers(0, 256, (14, 32, 32, 3), dtype=np.uint8)
    kinds = np.arange(14) % 2
    split = Split(np.arange(8), np.arange(8, 14), np.arange(0))
    watch = Watch(lambda text: print(text, flush=True), log=EventLog(folder / "logs"))
    with strategy_over([f"CPU:{number}" for number in range(devices)]).scope():
        model = build(2, start, 7, dropout=recipe.dropout, precision="float32")
        MemberTraining(model, recipe, start, folder, watch).run(pixels, kinds, split, 7)
    print(f"copies: {model.distribute_strategy.num_replicas_in_sync}", flush=True)
    save_arrays(folder / "final.npz", **{f"w{at}": np.array(v.numpy()) for at, v in enumerate(model.weights)})
