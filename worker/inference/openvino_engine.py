"""Owns the OpenVINO engine: ResNet50 built straight from the stored weights, so that no TensorFlow is needed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from shared.errors import EngineRefused
from worker.inference.engine import OUTPUTS, Outputs
from worker.inference.preprocess import SIDE
from worker.inference.weights import MEANS, Block, Weights, blocks, evidence_head, folded

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

    In bf16 the first convolution and the first block stay in float32. Most of what bf16 strays by comes from there:
    skin is one colour over large areas, so its rounding repeats at every pixel and does not average out. That costs a
    seventh of the speed and divides the largest difference of a probability by three to four.
    """

    name = "openvino"

    def __init__(self, weights: Weights, *, precision: str, threads: int, cache: Path) -> None:
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
        parts = (
            [(resnet50(weights), "f32")] if precision == "f32" else [(_stem(weights), "f32"), (_trunk(weights), "bf16")]
        )
        # OpenVINO's own default is bf16 where the CPU has it: say which, always.
        self._parts = [
            core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": hint}).create_infer_request()
            for model, hint in parts
        ]

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of RGB photos [n, 224, 224, 3], any n >= 1: a new n up to 16 costs one short compilation."""
        chunks = [self._chunk(batch[at : at + _CHUNK]) for at in range(0, len(batch), _CHUNK)]
        logits, evidence, features = (np.concatenate(column) for column in zip(*chunks, strict=True))
        return Outputs(logits, evidence, features)

    def _chunk(self, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        tensor = ov.Tensor(np.ascontiguousarray(batch))
        for part in self._parts:
            part.set_input_tensor(tensor)
            part.infer()
            tensor = part.get_output_tensor(0)
        return [np.array(self._parts[-1].get_tensor(name).data, dtype=np.float32) for name in OUTPUTS]


def resnet50(weights: Weights) -> ov.Model:
    """uint8 RGB [n, 224, 224, 3] -> logits [n, classes], evidence [n, 7, 7], features [n, 2048]."""
    photo = _photo()
    x = _first(weights, photo)
    for block in blocks():
        x = _block(weights, block, x)
    return ov.Model(_heads(weights, x), [photo], "poxvisio")


def _stem(weights: Weights) -> ov.Model:
    """The first convolution and the first block: uint8 RGB [n, 224, 224, 3] -> float32 [n, 256, 56, 56]."""
    photo = _photo()
    x = _block(weights, next(blocks()), _first(weights, photo))
    return ov.Model([ops.result(x)], [photo], "poxvisio-stem")


def _trunk(weights: Weights) -> ov.Model:
    """All blocks after the first, and the heads."""
    seen = ops.parameter([-1, 256, 56, 56], np.float32, name="seen")
    x: Any = seen
    for block in islice(blocks(), 1, None):
        x = _block(weights, block, x)
    return ov.Model(_heads(weights, x), [seen], "poxvisio-trunk")


def _photo() -> Any:
    return ops.parameter([-1, SIDE, SIDE, 3], np.uint8, name="photo")


def _block(weights: Weights, block: Block, x: Any) -> Any:
    shortcut = _convolution(weights, f"{block.name}_0", x, stride=block.stride) if block.projects else x
    inner = ops.relu(_convolution(weights, f"{block.name}_1", x, stride=block.stride))
    inner = ops.relu(_convolution(weights, f"{block.name}_2", inner, pad=1))
    return ops.relu(ops.add(shortcut, _convolution(weights, f"{block.name}_3", inner)))


def _heads(weights: Weights, x: Any) -> list[Any]:
    kernel, bias = weights["head/kernel"], weights["head/bias"]
    features = ops.reduce_mean(x, ops.constant(np.array([2, 3], dtype=np.int64)), keep_dims=False)
    logits = ops.add(ops.matmul(features, ops.constant(kernel), False, False), ops.constant(bias))
    direction, offset = evidence_head(kernel, bias)
    strips = ops.convolution(x, ops.constant(direction.reshape(1, -1, 1, 1)), [1, 1], [0, 0], [0, 0], [1, 1])
    evidence = ops.squeeze(ops.add(strips, ops.constant(offset)), ops.constant(np.array([1], dtype=np.int64)))
    results = [ops.result(node) for node in (logits, evidence, features)]
    for name, result in zip(OUTPUTS, results, strict=True):
        result.output(0).get_tensor().set_names({name})
    return results


def _first(weights: Weights, photo: Any) -> Any:
    """Caffe preprocessing, the first convolution and its pooling."""
    kernel, shift = _folded(weights, "conv1")
    kernel = kernel[:, ::-1]  # from BGR to RGB
    planes = ops.transpose(ops.convert(photo, np.float32), ops.constant(np.array([0, 3, 1, 2], dtype=np.int64)))
    centred = ops.subtract(planes, ops.constant(np.array(MEANS, dtype=np.float32).reshape(1, 3, 1, 1)))
    x = ops.relu(_applied(kernel, shift, centred, stride=2, pad=3))
    # Keras pads with zeros, OpenVINO with minus infinity; after a ReLU the two maxima are equal.
    return ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)


def _convolution(weights: Weights, name: str, x: Any, *, stride: int = 1, pad: int = 0) -> Any:
    kernel, shift = _folded(weights, name)
    return _applied(kernel, shift, x, stride=stride, pad=pad)


def _folded(weights: Weights, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel [out, in, height, width] and bias [out] of a convolution with its BatchNorm."""
    kernel, shift = folded(weights, name)
    return np.transpose(kernel, (3, 2, 0, 1)), shift


def _applied(kernel: NDArray[np.float32], shift: NDArray[np.float32], x: Any, *, stride: int, pad: int) -> Any:
    plane = ops.convolution(x, ops.constant(np.ascontiguousarray(kernel)), [stride] * 2, [pad] * 2, [pad] * 2, [1, 1])
    return ops.add(plane, ops.constant(shift.reshape(1, -1, 1, 1)))
