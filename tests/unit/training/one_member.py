"""Trains one small network in each of the folders given, in turn, going on where it was; tells of each epoch.

With ``--resnet50`` it is the network that is really trained, which takes ten times as long; ``--devices`` parts of the
CPU share each batch. It trains in a process of its own, whose number it tells; where that is killed, another goes on.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.backbone import Start, find_start
from training.config import Network, Recipe
from training.event_log import EventLog
from training.hardware import forget_networks, strategy_over
from training.member import MemberTraining, Watch
from training.runs import save_arrays
from training.splits import Split
from training.trunk import build

SEED = 7


def small(classes: int, start: Start, seed: int, *, dropout: float, precision: str) -> Any:
    """A network as `training.trunk.build` gives it, behind whose names are three layers instead of ResNet50's 175."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    inner = keras.Input((None, None, 3))
    found = keras.layers.Conv2D(4, 3, strides=4, name="conv1_conv")(inner)
    found = keras.layers.Conv2D(8, 3, strides=2, name="conv5_conv")(found)
    found = keras.layers.BatchNormalization(name="conv5_bn")(found)
    base = keras.Model(inner, keras.layers.GlobalAveragePooling2D()(found), name="resnet50")
    photo = keras.Input((None, None, 3), dtype="uint8")
    features = base(keras.ops.cast(photo, "float32") / 255.0, training=False)
    logits = keras.layers.Dense(classes, name="head")(keras.layers.Dropout(dropout, seed=seed)(features))
    return keras.Model(photo, logits)


def train_one(folder: Path, *, resnet50: bool) -> None:
    recipe = Recipe(side=32, batch=4, head_epochs=1, tune_epochs=2, tune_rate=1e-4)
    start = find_start(Network(id="tiny", weights="bundle:models/demo"))
    draws = np.random.default_rng(1)
    pixels = draws.integers(0, 256, (14, 32, 32, 3), dtype=np.uint8)
    kinds = np.arange(14) % 2
    split = Split(np.arange(8), np.arange(8, 14), np.arange(0))
    watch = Watch(lambda text: print(text, flush=True), log=EventLog(folder / "logs"))
    model = (build if resnet50 else small)(2, start, SEED, dropout=recipe.dropout, precision="float32")
    MemberTraining(model, recipe, start, folder, watch).run(pixels, kinds, split, SEED)
    print(f"copies: {model.distribute_strategy.num_replicas_in_sync}", flush=True)
    save_arrays(folder / "final.npz", **{f"w{at}": np.array(v.numpy()) for at, v in enumerate(model.weights)})


def train(given: argparse.Namespace) -> None:
    print(f"process {os.getpid()}", flush=True)
    tf.config.experimental.enable_op_determinism()
    parts = [tf.config.LogicalDeviceConfiguration()] * given.devices
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    for place in given.folders:
        forget_networks()
        with strategy_over([f"CPU:{number}" for number in range(given.devices)]).scope():
            train_one(place, resnet50=given.resnet50)


def train_in_a_process_of_its_own(given: argparse.Namespace) -> int:
    """Return how it ended, as ``waitpid`` says."""
    # A fork has TensorFlow imported, which takes longer than the training; none of it has run yet.
    child = os.fork()
    if not child:
        train(given)
        sys.stdout.flush()
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--resnet50", action="store_true")
    given = parser.parse_args()
    ended = train_in_a_process_of_its_own(given)
    if ended == signal.SIGKILL:
        ended = train_in_a_process_of_its_own(given)
    sys.exit(os.waitstatus_to_exitcode(ended))
