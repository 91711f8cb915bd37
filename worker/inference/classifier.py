"""Owns the loaded network: photos of one batch in, answers out. Knows no Celery, database or bucket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle
from shared.errors import EngineRefused
from worker.inference import openvino_engine, tensorflow_engine, torch_engine
from worker.inference.answers import Answer, Calibration, answers_from
from worker.inference.compiled import compiled_folder
from worker.inference.devices import gpu_seen_by
from worker.inference.engine import Engine
from worker.inference.openvino_int8 import rounding_of
from worker.inference.parity import check_parity
from worker.inference.preprocess import SIDE, Quality
from worker.inference.weights import load_reference, load_weights

ENGINES = ("auto", "openvino", "tensorflow", "torch")
PRECISIONS = ("auto", "f32", "f16", "bf16", "int8")
_HALVES = {
    "openvino": openvino_engine.halves_here,
    "tensorflow": tensorflow_engine.halves_here,
    "torch": torch_engine.halves_here,
}


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
        """Compiles the network (0.3 s with OpenVINO, 3 s with Keras) and checks it against the bundle's reference.

        engine "auto": TensorFlow where it sees a GPU, else PyTorch where it sees one, else OpenVINO. precision "auto":
        the first half precision that the device is faster in and the bundle was proved in; else, with OpenVINO, int8
        where the bundle was quantised; else f32. An admitted int8 is faster than bf16 too, but moves probabilities by
        more, so where the processor has bf16 it is asked for by name. threads 0: one per core. Compiled code and the
        parity record go to a folder of their own inside `cache`. Raises ParityFailed, BundleAltered; EngineRefused
        where the engine cannot be built here; ValueError for an unknown name.
        """
        if engine not in ENGINES or precision not in PRECISIONS:
            raise ValueError(f"engine is one of {', '.join(ENGINES)} and precision one of {', '.join(PRECISIONS)}")
        library = _library() if engine == "auto" else engine
        arithmetic = _arithmetic(bundle, library) if precision == "auto" else precision
        with compiled_folder(cache, bundle, library, arithmetic) as folder:
            compiled = _built(bundle, library, arithmetic, threads, folder)
            check_parity(compiled, bundle, folder)
        return cls(bundle, compiled, Calibration.of(bundle, arithmetic))

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


def _library() -> str:
    if gpu_seen_by("tensorflow"):
        return "tensorflow"
    return "torch" if gpu_seen_by("torch") else "openvino"


def _arithmetic(bundle: Bundle, library: str) -> str:
    proved = bundle.calibration["precisions"]
    if half := next((half for half in _HALVES[library]() if half in proved), None):
        return half
    return "int8" if library == "openvino" and "int8" in proved and openvino_engine.int8_here() else "f32"


def _built(bundle: Bundle, library: str, precision: str, threads: int, folder: Path) -> Engine:
    if precision == "int8" and library != "openvino":
        raise EngineRefused(f"int8 is computed by OpenVINO alone, not by {library}: choose another precision.")
    weights = load_weights(bundle)
    if library == "tensorflow":
        return tensorflow_engine.TensorFlowEngine(weights, precision=precision, threads=threads)
    if library == "torch":
        return torch_engine.TorchEngine(weights, precision=precision, threads=threads)
    seen = load_reference(bundle).photos
    rounding = rounding_of(bundle) if precision == "int8" else None
    return openvino_engine.OpenVinoEngine(
        weights, seen=seen, precision=precision, threads=threads, cache=folder, rounding=rounding
    )
