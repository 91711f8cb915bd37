"""Owns the OpenVINO engine: ResNet50 built straight from the stored weights, so that no TensorFlow is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from worker.inference.engine import Outputs
from worker.inference.preprocess import SIDE
from worker.inference.weights import MEANS, NORM_EPSILON, Weights, blocks, evidence_head


def bf16_here() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """A compiled ResNet50 on the CPU; bit-identical whatever the batch, the place in it and the threads."""

    name = "openvino"

    def __init__(self, weights: Weights, *, precision: str, threads: int, cache: Path) -> None:
        self.precision = precision
        core = ov.Core()
        settings: dict[str, Any] = {
            # OpenVINO's own default is bf16 where the CPU has it: say it, whichever it is.
            "INFERENCE_PRECISION_HINT": precision,
            # With pinning two one-thread processes share the first core and halve.
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "CACHE_DIR": str(cache),
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._request = core.compile_model(resnet50(weights), "CPU", settings).create_infer_request()

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of RGB photos [n, 224, 224, 3], any n >= 1: a new n costs one short compilation."""
        found = self._request.infer([np.ascontiguousarray(batch)])
        logits, evidence, features = (
            np.array(found[name], dtype=np.float32) for name in ("logits", "evidence", "features")
        )
        return Outputs(logits, evidence, features)


def resnet50(weights: Weights) -> ov.Model:
    """uint8 RGB [n, 224, 224, 3] -> logits [n, classes], evidence [n, 7, 7], features [n, 2048]."""
    photo = ops.parameter([-1, SIDE, SIDE, 3], np.uint8, name="photo")
    x = ops.relu(_first(weights, photo))
    # Keras pads with zeros, not with minus infinity; after a ReLU the two maxima are equal.
    x = ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    for block in blocks():
        shortcut = _convolution(weights, f"{block.name}_0", x, stride=block.stride) if block.projects else x
        inner = ops.relu(_convolution(weights, f"{block.name}_1", x, stride=block.stride))
        inner = ops.relu(_convolution(weights, f"{block.name}_2", inner, pad=1))
        x = ops.relu(ops.add(shortcut, _convolution(weights, f"{block.name}_3", inner)))
    kernel, bias = weights["head/kernel"], weights["head/bias"]
    features = ops.reduce_mean(x, ops.constant(np.array([2, 3], dtype=np.int64)), keep_dims=False)
    logits = ops.add(ops.matmul(features, ops.constant(kernel), False, False), ops.constant(bias))
    direction, offset = evidence_head(kernel, bias)
    strips = ops.convolution(x, ops.constant(direction.reshape(1, -1, 1, 1)), [1, 1], [0, 0], [0, 0], [1, 1])
    evidence = ops.squeeze(ops.add(strips, ops.constant(offset)), ops.constant(np.array([1], dtype=np.int64)))
    results = []
    for name, node in (("logits", logits), ("evidence", evidence), ("features", features)):
        result = ops.result(node)
        result.output(0).get_tensor().set_names({name})
        results.append(result)
    return ov.Model(results, [photo], "poxvisio")


def _first(weights: Weights, photo: Any) -> Any:
    """Caffe preprocessing and the first convolution, exact in bf16 up to the convolution itself.

    A byte less a fractional mean would be rounded to 8 bits, the largest error of the whole network in bf16. So whole
    numbers are subtracted, which bf16 holds exactly, and a plane of ones carries what the means have beyond them; its
    padding is zero as theirs is, so the border comes out as Keras has it.
    """
    kernel, shift = _folded(weights, "conv1")
    kernel = kernel[:, ::-1]  # from BGR to RGB
    whole = np.round(MEANS).astype(np.float32)
    rest = np.einsum("oihw,i->ohw", kernel, whole - np.array(MEANS, dtype=np.float32))[:, None]
    planes = ops.transpose(ops.convert(photo, np.float32), ops.constant(np.array([0, 3, 1, 2], dtype=np.int64)))
    centred = ops.subtract(planes, ops.constant(whole.reshape(1, 3, 1, 1)))
    before, after = (ops.constant(np.array(pads, dtype=np.int64)) for pads in ([0, 0, 0, 0], [0, 1, 0, 0]))
    x = ops.pad(centred, before, after, "constant", ops.constant(np.float32(1.0)))
    return _applied(np.concatenate([kernel, rest], axis=1), shift, x, stride=2, pad=3)


def _convolution(weights: Weights, name: str, x: Any, *, stride: int = 1, pad: int = 0) -> Any:
    kernel, shift = _folded(weights, name)
    return _applied(kernel, shift, x, stride=stride, pad=pad)


def _folded(weights: Weights, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel [out, in, height, width] and bias [out] of a convolution with its BatchNorm."""
    scale = weights[f"{name}_bn/gamma"] / np.sqrt(weights[f"{name}_bn/moving_variance"] + NORM_EPSILON)
    kernel = np.transpose(weights[f"{name}_conv/kernel"] * scale, (3, 2, 0, 1))
    shift = (weights[f"{name}_conv/bias"] - weights[f"{name}_bn/moving_mean"]) * scale + weights[f"{name}_bn/beta"]
    return kernel.astype(np.float32), shift.astype(np.float32)


def _applied(kernel: NDArray[np.float32], shift: NDArray[np.float32], x: Any, *, stride: int, pad: int) -> Any:
    plane = ops.convolution(x, ops.constant(np.ascontiguousarray(kernel)), [stride] * 2, [pad] * 2, [pad] * 2, [1, 1])
    return ops.add(plane, ops.constant(shift.reshape(1, -1, 1, 1)))
