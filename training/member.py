"""Owns the training of one network of a run: two phases, early stop, and a state after each epoch to go on from."""

# ruff: noqa: PLC0415 - TensorFlow takes seconds to import
from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.augmentation import batches
from training.backbone import Start, load_start
from training.calibration import negative_log_likelihood
from training.config import Recipe
from training.runs import HISTORY, replace_file, save_arrays
from training.splits import Split

STATE: Final = "state.npz"
HEAD, TUNE = "head", "tune"
_COLUMNS: Final = ("phase", "epoch", "loss", "validation_nll", "validation_accuracy")


def build(classes: int, recipe: Recipe, start: Start, seed: int) -> Any:
    """A Keras network to train: RGB uint8 [n, side, side, 3] -> logits. BatchNorm stays frozen where it transfers.

    The caffe preprocessing is in the graph and augmentation is not.
    """
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(recipe.precision)
    photo = keras.Input((recipe.side, recipe.side, 3), dtype="uint8", name="photo")
    x = keras.ops.cast(photo, "float32")
    x = keras.ops.flip(x, axis=-1) - keras.ops.array([103.939, 116.779, 123.68], dtype="float32")
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(None, None, 3), pooling="avg")
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    load_start(base, start)
    features = base(x, training=False) if start.transfers else base(x)
    dropped = keras.layers.Dropout(recipe.dropout, seed=seed)(features)
    logits = keras.layers.Dense(classes, dtype="float32", name="head")(dropped)
    return keras.Model(photo, logits, name="poxvisio")


def _set_phase(model: Any, phase: str, *, transfers: bool) -> None:
    import keras

    for layer in model.get_layer("resnet50").layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not transfers or (phase == TUNE and layer.name.startswith("conv5") and not norm)


@dataclass
class _Progress:
    """Where a member is: phase, next epoch, best validation NLL and how long ago, and the rows of its history."""

    phase: str
    epoch: int
    best: float
    since: int
    rows: list[list[str]]


class MemberTraining:
    """The training of one member in its folder; `run` goes on from the last finished epoch, whenever it was killed."""

    def __init__(
        self, model: Any, recipe: Recipe, start: Start, folder: Path, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._model, self._recipe, self._transfers, self._folder, self._tell = (
            model, recipe, start.transfers, folder, tell)  # fmt: skip
        self._progress = _Progress(HEAD if start.transfers else TUNE, 0, math.inf, 0, [])

    def run(self, pixels: NDArray[np.uint8], kinds: NDArray[np.int64], split: Split, seed: int) -> None:
        """Trains to the end; the network then holds the weights of least validation NLL of the last phase."""
        classes = self._model.output_shape[-1]
        truth = np.eye(classes, dtype=np.float32)[kinds]
        count = np.bincount(kinds[split.train], minlength=classes)
        weights = (len(split.train) / (classes * np.maximum(count, 1)))[kinds].astype(np.float32)
        state = self._read()
        phases = (HEAD, TUNE) if self._transfers else (TUNE,)
        for phase in phases[phases.index(self._progress.phase) :]:
            if phase != self._progress.phase:
                self._progress = _Progress(phase, 0, math.inf, 0, self._progress.rows)
            self._phase(phase, state, (pixels, truth, weights, kinds), split, seed)
            state = None

    def _phase(self, phase: str, state: dict[str, Any] | None, data: tuple[Any, ...], split: Split, seed: int) -> None:
        import keras
        import tensorflow as tf

        recipe, model, progress = self._recipe, self._model, self._progress
        pixels, truth, weights, kinds = data
        _set_phase(model, phase, transfers=self._transfers)
        epochs, rate = ((recipe.head_epochs, recipe.head_rate) if phase == HEAD
                        else (recipe.tune_epochs, recipe.tune_rate))  # fmt: skip
        steps = max(1, len(split.train) // recipe.batch)
        optimizer: Any = keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(rate, steps * epochs), weight_decay=recipe.weight_decay
        )
        model.compile(
            optimizer=optimizer,
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
            jit_compile=bool(tf.config.list_physical_devices("GPU")),
        )
        model.optimizer.build(model.trainable_variables)
        best = self._restore(state) if state else self._kept()
        held = tf.constant(pixels)
        while progress.epoch < epochs and progress.since < recipe.patience:
            offset = 0 if phase == HEAD else 10_000
            dataset = batches(
                held, truth, weights, split.train, batch=recipe.batch, seed=(seed, offset + progress.epoch)
            )
            loss = model.fit(dataset, epochs=1, verbose=0, shuffle=False).history["loss"][0]
            logits = np.asarray(model.predict(pixels[split.validation], batch_size=recipe.batch, verbose=0))
            nll = negative_log_likelihood(logits, kinds[split.validation], 1.0)
            right = float((logits.argmax(1) == kinds[split.validation]).mean())
            progress.since = 0 if nll < progress.best else progress.since + 1
            if not progress.since:
                progress.best, best = nll, self._kept()
            progress.rows.append([phase, str(progress.epoch), f"{loss:.6f}", f"{nll:.6f}", f"{right:.4f}"])
            progress.epoch += 1
            self._write(best)
            self._tell(f"{self._folder.name} {phase} {progress.epoch}/{epochs}: validation NLL {nll:.4f}")
        for variable, value in zip(self._learnt(), best, strict=True):
            variable.assign(value)

    def _learnt(self) -> list[Any]:
        """What this phase changes; from scratch also what BatchNorm gathers."""
        return list(self._model.trainable_variables if self._transfers else self._model.weights)

    def _kept(self) -> list[NDArray[Any]]:
        return [np.array(variable) for variable in self._learnt()]

    def _moving(self) -> list[Any]:
        """Everything that an epoch leaves behind: weights, the optimizer, the states of random numbers."""
        known = {id(v) for v in self._model.weights}
        seeds = [v for v in self._model.variables if id(v) not in known and "seed" in v.path]
        return [*self._learnt(), *self._model.optimizer.variables, *seeds]

    def _write(self, best: list[NDArray[Any]]) -> None:
        progress = self._progress
        arrays = {f"now{at}": np.array(variable) for at, variable in enumerate(self._moving())}
        arrays |= {f"best{at}": value for at, value in enumerate(best)}
        facts = np.array([progress.phase, str(progress.epoch), repr(progress.best), str(progress.since)])
        save_arrays(self._folder / STATE, facts=facts, rows=np.array(progress.rows), **arrays)
        held = io.StringIO()
        csv.writer(held, lineterminator="\n").writerows([_COLUMNS, *progress.rows])
        replace_file(self._folder / HISTORY, held.getvalue().encode())

    def _read(self) -> dict[str, Any] | None:
        """The state of the last finished epoch. What the phase before taught the head is part of it."""
        if not (self._folder / STATE).is_file():
            return None
        with np.load(self._folder / STATE) as stored:
            state = {name: stored[name] for name in stored.files}
        phase, epoch, best, since = (str(value) for value in state["facts"])
        self._progress = _Progress(
            phase, int(epoch), float(best), int(since), [list(map(str, r)) for r in state["rows"]]
        )
        return state

    def _restore(self, state: dict[str, Any]) -> list[NDArray[Any]]:
        for at, variable in enumerate(self._moving()):
            variable.assign(state[f"now{at}"])
        return [state[f"best{at}"] for at in range(len(self._learnt()))]
