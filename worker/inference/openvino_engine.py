"""Owns the OpenVINO engine: ResNet50 built straight from the stored weights, so that no TensorFlow is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from shared.errors import EngineRefused
from worker.inference.engine import OUTPUTS, Outputs
from worker.inference.openvino_graph import first_planes, resnet50, resnet50_for_bf16, usual_of, with_plane_of_ones
from worker.inference.weights import Weights

# Photos at once: the first block's output is 3 MB a photo, and larger batches gain nothing on a CPU.
_CHUNK = 16
_PRECISIONS = ("f32", "bf16")


def bf16_here() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def halves_here() -> tuple[str, ...]:
    """The half precisions in which this CPU is faster than in float32, best first."""
    return ("bf16",) if bf16_here() else ()


class OpenVinoEngine:
    """A compiled ResNet50 on the CPU; bit-identical whatever the batch, the place in it and the threads.

    seen: photos [n, 224, 224, 3] like those that will come, the bundle's reference; bf16 centres its first planes on
    them. Raises EngineRefused for a precision that OpenVINO does not have here.
    """

    name = "openvino"

    def __init__(self, weights: Weights, *, seen: NDArray[np.uint8], precision: str, threads: int, cache: Path) -> None:
        if precision not in _PRECISIONS:
            raise EngineRefused(f"OpenVINO computes in {' or '.join(_PRECISIONS)} here, not in {precision}.")
        self.precision = precision
        self.measured: Mapping[str, object] = {}
        core = ov.Core()
        settings: dict[str, Any] = {
            # With pinning two one-thread processes share the first core and halve.
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "CACHE_DIR": str(cache),
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads

        def compiled(model: ov.Model, arithmetic: str) -> Any:
            # OpenVINO's own default is bf16 where the CPU has it: say which, always.
            return core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": arithmetic})

        if precision == "f32":
            model = resnet50(weights)
        else:
            planes = compiled(first_planes(weights), "f32")([seen])[0]
            model = resnet50_for_bf16(weights, usual_of(planes))
        self._request = compiled(model, precision).create_infer_request()

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of RGB photos [n, 224, 224, 3], any n >= 1: a new n up to 16 costs one short compilation."""
        chunks = [self._chunk(batch[at : at + _CHUNK]) for at in range(0, len(batch), _CHUNK)]
        logits, evidence, features = (np.concatenate(column) for column in zip(*chunks, strict=True))
        return Outputs(logits, evidence, features)

    def _chunk(self, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        read = np.ascontiguousarray(batch) if self.precision == "f32" else with_plane_of_ones(batch)
        self._request.set_input_tensor(ov.Tensor(read))
        self._request.infer()
        return [np.array(self._request.get_tensor(name).data, dtype=np.float32) for name in OUTPUTS]
