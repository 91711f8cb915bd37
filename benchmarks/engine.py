"""Benchmark of the network alone: our engines against plain Keras with the same weights, and against the roof."""

# ruff: noqa: PLC0415 - each process loads the one library that it measures
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.apart import ROOT, Apart, Took
from benchmarks.report import Row, versus
from benchmarks.roof import NoRoof, Roof
from shared.bundle import load_bundle
from shared.errors import PoxVisioError
from shared.processors import processors
from worker.inference.openvino_engine import OpenVinoEngine, bf16_here, int8_here
from worker.inference.openvino_int8 import rounding_of
from worker.inference.tensorflow_engine import TensorFlowEngine, load_by_name
from worker.inference.weights import MEANS, load_reference, load_weights

BUNDLE = ROOT / "models" / "demo"
# The same network, quantised: `poxvisio models quantise` makes it, a minute or two, with photos that are not kept here.
QUANTISED = ROOT / "build" / "int8"
BATCH = 16
# Multiply-accumulates of one photo, 10^9; those with the padding's zeros, which a network need not do, are 3.856.
GMAC = 3.697

_INT8_LEAST = 4

Infer = Callable[[NDArray[np.uint8]], object]


class Contender:
    """One engine in a process of its own; each question is seconds of work in batches of 16."""

    def __init__(self, engine: str, precision: str, threads: int, batch: int = BATCH) -> None:
        bundle = load_bundle(QUANTISED if precision == "int8" else BUNDLE)
        seen = load_reference(bundle).photos
        self._batch = np.concatenate([seen, seen[:, :, ::-1]] * batch)[:batch]
        weights = load_weights(bundle)
        if engine == "openvino":
            rounding = rounding_of(bundle) if precision == "int8" else None
            with tempfile.TemporaryDirectory() as cache:
                ours = OpenVinoEngine(
                    weights, seen=seen, precision=precision, threads=threads, cache=Path(cache), rounding=rounding
                )
            self._infer: Infer = ours.infer
        elif engine == "tensorflow":
            self._infer = TensorFlowEngine(weights, precision=precision, threads=threads).infer
        else:
            self._infer = _keras(weights, self._batch, threads)
        self._infer(self._batch)

    def __call__(self, seconds: float) -> int:
        """Return how many photos went through."""
        done, end = 0, time.perf_counter() + seconds
        while not done or time.perf_counter() < end:
            self._infer(self._batch)
            done += len(self._batch)
        return done


def _keras(weights: Any, batch: NDArray[np.uint8], threads: int) -> Infer:
    """Plain Keras as its documentation has it; what it does not have to do (preprocessing) is done before."""
    import keras
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=batch.shape[1:], pooling="avg")
    load_by_name(base, weights)
    head = keras.layers.Dense(len(weights["head/bias"]), activation="softmax")
    model = keras.Sequential([base, head])
    head.set_weights([weights["head/kernel"], weights["head/bias"]])
    prepared = (batch.astype(np.float32) - np.array(MEANS, dtype=np.float32))[..., ::-1]

    def predict(_: NDArray[np.uint8]) -> object:
        return model.predict(prepared, batch_size=len(batch), verbose=0)

    return predict


def run(*, quick: bool) -> Iterator[Row]:
    """Measure with one thread, then with all cores."""
    if quick:
        yield from _run(1, batch=1, rounds=1, seconds=0.1)
        return
    for threads in (1, processors()):
        yield from _run(threads, batch=BATCH, rounds=7, seconds=1.5)


def _run(threads: int, batch: int, rounds: int, seconds: float) -> Iterator[Row]:
    absent = why_no_int8()
    asked = _asked(int8=not absent)
    with tempfile.TemporaryDirectory() as folder:
        try:
            roof, why = Roof(Path(folder)), ""
        except NoRoof as error:
            roof, why = None, str(error)
        parts = {
            (engine, precision): Apart(
                "benchmarks.engine:Contender", engine=engine, precision=precision, threads=threads, batch=batch
            )
            for engine, precision in asked
        }
        try:
            took: dict[tuple[str, str], list[Took]] = {name: [] for name in asked}
            roofs: dict[str, list[float]] = {precision: [] for _, precision in asked}
            for part in parts.values():
                part.ask(seconds=seconds)
            for _ in range(rounds):
                for name, part in parts.items():
                    took[name].append(part.ask(seconds=seconds))
                for precision, found in roofs.items():
                    if roof:
                        found.append(roof.gmac_per_cpu_second(precision, min(seconds, 0.5), at_once=threads))
        finally:
            for part in parts.values():
                part.close()
    yield from _rows(threads, batch, took, roofs, why)
    if absent:
        what = f"openvino int8, {_with(threads)}"
        yield Row(what, None, "photos/CPU-s", f"Keras predict, batch {batch}", at_least=_INT8_LEAST, note=absent)


def _asked(*, int8: bool) -> list[tuple[str, str]]:
    halves = [("openvino", "bf16")] if bf16_here() else []
    rounded = [("openvino", "int8")] if int8 else []
    return [("keras", "f32"), *rounded, *halves, ("openvino", "f32"), ("tensorflow", "f32")]


def why_no_int8() -> str:
    """Return why int8 cannot be measured here, or nothing."""
    if not int8_here():
        return "this processor has no instructions for int8"
    try:
        rounding_of(load_bundle(QUANTISED))
    except PoxVisioError as error:  # its words name folders of this machine
        return f"build/int8 holds no bundle for int8 ({type(error).__name__}): `poxvisio models quantise` makes one"
    return ""


def _with(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _rows(
    threads: int, batch: int, took: dict[tuple[str, str], list[Took]], roofs: dict[str, list[float]], why: str
) -> Iterator[Row]:
    rates = {name: statistics.median(one.value / one.cpu for one in found) for name, found in took.items()}
    walls = {name: statistics.median(one.value / one.wall for one in found) for name, found in took.items()}
    keras = rates["keras", "f32"]
    for (engine, precision), rate in rates.items():
        if engine == "keras":
            continue
        what = f"{engine} {precision}, {_with(threads)}"
        least, share = {"bf16": (2.4, 0.9), "int8": (_INT8_LEAST, None)}.get(precision, (None, None))
        note = f"{walls[engine, precision]:.1f} photos/s by the clock, Keras {walls['keras', 'f32']:.1f}"
        yield versus(what, rate, "photos/CPU-s", f"Keras predict, batch {batch}", keras, at_least=least, note=note)
        what = f"{what}, share of the roof"
        if engine == "openvino" and not roofs[precision]:
            yield Row(what, rate, "photos/CPU-s", "the roof", at_least=share, note=why)
        elif engine == "openvino":
            top = statistics.median(roofs[precision])
            yield versus(what, rate, "photos/CPU-s", f"at {top:.1f} GMAC/s a core", top / GMAC, at_least=share)
