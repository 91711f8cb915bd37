"""Owns the loaded network: photos of one batch in, answers out. Knows no Celery, database or bucket."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle
from worker.inference.answers import Answer, Calibration, answers_from
from worker.inference.engine import Engine
from worker.inference.openvino_engine import OpenVinoEngine, bf16_here
from worker.inference.parity import check_parity
from worker.inference.preprocess import SIDE, Quality
from worker.inference.tensorflow_engine import TensorFlowEngine, gpu_here
from worker.inference.weights import load_weights

ENGINES = ("auto", "openvino", "tensorflow")
PRECISIONS = ("auto", "f32", "bf16")


class Classifier:
    """A bundle behind a checked engine. The same photo gets the same answer, alone or in any batch."""

    def __init__(self, bundle: Bundle, engine: Engine, calibration: Calibration) -> None:
        self.bundle = bundle
        self.engine = engine
        self._calibration = calibration

    @classmethod
    def load(
        cls, bundle: Bundle, *, engine: str = "auto", precision: str = "auto", threads: int = 0, cache: Path
    ) -> Self:
        """Compiles the network (0.3 s with OpenVINO, 3 s with TensorFlow) and checks it against the bundle's reference.

        engine "auto": TensorFlow where it is installed and sees a GPU, else OpenVINO. precision "auto": bf16 where the
        OpenVINO CPU has it and the bundle was proved in it, else f32. threads 0: one per core. Compiled code and the
        parity record go to a folder of the bundle's digest inside `cache`. Raises ParityFailed, BundleAltered;
        ValueError for an unknown name.
        """
        if engine not in ENGINES or precision not in PRECISIONS:
            raise ValueError(f"engine is one of {', '.join(ENGINES)} and precision one of {', '.join(PRECISIONS)}")
        folder = cache / bundle.digest[:16]
        with _alone_in(folder):
            compiled = _engine(bundle, engine, precision, threads, folder)
            check_parity(compiled, bundle, folder)
        return cls(bundle, compiled, Calibration.of(bundle))

    def classify(self, pixels: NDArray[np.uint8], quality: Sequence[Quality]) -> list[Answer]:
        """Answers for photos [n, 224, 224, 3] from `network_input` and their qualities, in order.

        Raises ValueError for another type, shape or number of qualities.
        """
        if pixels.dtype != np.uint8 or pixels.shape != (len(pixels), SIDE, SIDE, 3):
            raise ValueError(f"photos are uint8 [n, {SIDE}, {SIDE}, 3], not {pixels.dtype} {list(pixels.shape)}")
        if len(pixels) != len(quality):
            raise ValueError(f"{len(pixels)} photos came with {len(quality)} qualities")
        if len(pixels) == 0:
            return []
        return answers_from(self.engine.infer(pixels), quality, self._calibration)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the cache against other workers of this machine: OpenVINO's files race when two compile at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _engine(bundle: Bundle, engine: str, precision: str, threads: int, folder: Path) -> Engine:
    weights = load_weights(bundle)
    if engine == "tensorflow" or (engine == "auto" and _gpu_with_tensorflow()):
        return TensorFlowEngine(weights, precision="f32" if precision == "auto" else precision, threads=threads)
    proved = "bf16" in bundle.calibration["precisions"] and bf16_here()
    chosen = ("bf16" if proved else "f32") if precision == "auto" else precision
    return OpenVinoEngine(weights, precision=chosen, threads=threads, cache=folder)


def _gpu_with_tensorflow() -> bool:
    # The device file first: importing TensorFlow costs seconds and half a gigabyte on machines without a GPU.
    return Path("/dev/nvidiactl").exists() and importlib.util.find_spec("tensorflow") is not None and gpu_here()
