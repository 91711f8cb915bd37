"""Owns the training of one network of a run: phases, early stop, and a state after each epoch to go on from."""

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

from shared.errors import TrainingRefused
from training.augmentation import batches
from training.backbone import Start
from training.calibration import negative_log_likelihood
from training.config import Recipe
from training.event_log import EventLog
from training.landing import replace_file
from training.pictures import resized
from training.runs import HISTORY, save_arrays
from training.schedule import TUNE, Phase, phases_of
from training.splits import Split
from training.trunk import trunk_of

STATE: Final = "state.npz"
_COLUMNS: Final = ("phase", "epoch", "loss", "validation_nll", "validation_accuracy")


@dataclass(frozen=True)
class _Lesson:
    """What is learnt: photos, their classes (also as rows of zeros and a one), their weights, their roles, the seed."""

    pixels: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    truth: NDArray[np.float32]
    weights: NDArray[np.float32]
    split: Split
    seed: int


@dataclass(frozen=True)
class Watch:
    """Who hears how a training gets on: people in words and in epochs done, TensorBoard in figures."""

    tell: Callable[[str], None] = lambda _: None
    count: Callable[[int], None] = lambda _: None
    log: EventLog | None = None


def _set_phase(model: Any, phase: Phase, *, transfers: bool) -> None:
    import keras

    for layer in trunk_of(model).layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not transfers or (phase.name == TUNE and layer.name.startswith("conv5") and not norm)


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

    def __init__(self, model: Any, recipe: Recipe, start: Start, folder: Path, watch: Watch | None = None) -> None:
        self._model, self._recipe, self._transfers, self._folder = model, recipe, start.transfers, folder
        self._watch = watch or Watch()
        self._phases = phases_of(recipe, transfers=start.transfers)
        self._progress = _Progress(self._phases[0].name, 0, math.inf, 0, [])

    def run(self, pixels: NDArray[np.uint8], kinds: NDArray[np.int64], split: Split, seed: int) -> None:
        """Trains on photos [n, 224, 224, 3] to the end.

        The network then holds the weights of least validation NLL of the last phase. Raises TrainingRefused where no
        epoch of a phase had one.
        """
        classes = self._model.output_shape[-1]
        truth = np.eye(classes, dtype=np.float32)[kinds]
        count = np.bincount(kinds[split.train], minlength=classes)
        weights = (len(split.train) / (classes * np.maximum(count, 1)))[kinds].astype(np.float32)
        lesson = _Lesson(pixels, kinds, truth, weights, split, seed)
        state = self._read()
        names = [phase.name for phase in self._phases]
        done = names.index(self._progress.phase)
        before = sum(phase.epochs for phase in self._phases[:done])
        for place, phase in enumerate(self._phases[done:], start=done):
            if phase.name != self._progress.phase:
                self._progress = _Progress(phase.name, 0, math.inf, 0, self._progress.rows)
            self._phase(phase, state, lesson, 10_000 * place, before)
            state, before = None, before + phase.epochs

    def _phase(self, phase: Phase, state: dict[str, Any] | None, lesson: _Lesson, key: int, before: int) -> None:
        import tensorflow as tf

        recipe, model, progress = self._recipe, self._model, self._progress
        validation = lesson.split.validation
        seen = resized(lesson.pixels[validation], phase.side)
        _set_phase(model, phase, transfers=self._transfers)
        self._compile(phase, steps=max(1, len(lesson.split.train) // recipe.batch))
        best = self._restore(state) if state else self._kept()
        held = tf.constant(lesson.pixels)
        while progress.epoch < phase.epochs and progress.since < recipe.patience:
            dataset = batches(
                held, lesson.truth, lesson.weights, lesson.split.train, side=phase.side,
                batch=recipe.batch, seed=(lesson.seed, key + progress.epoch),
            )  # fmt: skip
            loss = model.fit(dataset, epochs=1, verbose=0, shuffle=False).history["loss"][0]
            logits = np.asarray(model.predict(seen, batch_size=recipe.batch, verbose=0))
            nll = negative_log_likelihood(logits, lesson.kinds[validation], 1.0)
            right = float((logits.argmax(1) == lesson.kinds[validation]).mean())
            progress.since = 0 if nll < progress.best else progress.since + 1
            if not progress.since:
                progress.best, best = nll, self._kept()
            progress.rows.append([phase.name, str(progress.epoch), f"{loss:.6f}", f"{nll:.6f}", f"{right:.4f}"])
            progress.epoch += 1
            self._write(best)
            self._tell(phase, before, {"loss": loss, "validation_nll": nll, "validation_accuracy": right})
        if not math.isfinite(progress.best):
            raise TrainingRefused(
                f"{self._folder.name}: no epoch of {phase.name} ended with a number, so nothing was learnt: lower its "
                "rate, or take float32 for precision, and begin anew in another folder"
            )
        for variable, value in zip(self._learnt(), best, strict=True):
            variable.assign(value)

    def _compile(self, phase: Phase, *, steps: int) -> None:
        import keras
        import tensorflow as tf

        recipe = self._recipe
        warm = min(recipe.warmup_steps, steps * phase.epochs // 2)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warm else phase.rate, steps * phase.epochs - warm, alpha=phase.last_rate / phase.rate,
            warmup_target=phase.rate if warm else None, warmup_steps=warm,
        )  # fmt: skip
        optimizer: Any = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self._model.compile(
            optimizer=optimizer,
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
            jit_compile=bool(tf.config.list_physical_devices("GPU")),
        )
        self._model.optimizer.build(self._model.trainable_variables)

    def _tell(self, phase: Phase, before: int, figures: dict[str, float]) -> None:
        done, watch = self._progress.epoch, self._watch
        if watch.log is not None:
            watch.log.write(before + done, figures)
        watch.count(before + done)
        nll = figures["validation_nll"]
        watch.tell(f"{self._folder.name} {phase.name} {done}/{phase.epochs}: validation NLL {nll:.4f}")

    def _learnt(self) -> list[Any]:
        """What this phase changes; from scratch also what BatchNorm gathers."""
        return list(self._model.trainable_variables if self._transfers else self._model.weights)

    def _kept(self) -> list[NDArray[Any]]:
        return [np.array(variable.numpy()) for variable in self._learnt()]

    def _moving(self) -> list[Any]:
        """Everything that an epoch leaves behind: weights, the optimizer, the states of random numbers."""
        known = {id(v) for v in self._model.weights}
        seeds = [v for v in self._model.variables if id(v) not in known and "seed" in v.path]
        return [*self._learnt(), *self._model.optimizer.variables, *seeds]

    def _write(self, best: list[NDArray[Any]]) -> None:
        progress = self._progress
        arrays = {f"now{at}": np.array(variable.numpy()) for at, variable in enumerate(self._moving())}
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
