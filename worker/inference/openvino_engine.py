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
    planes = ops.transpose(ops.convert(photo, np.float32), ops.constant(np.array([0, 3, 1, 2], dtype=np.int64)))
    x = ops.subtract(planes, ops.constant(np.array(MEANS, dtype=np.float32).reshape(1, 3, 1, 1)))
    x = ops.relu(_convolution(weights, "conv1", x, stride=2, pad=3, reverse=True))
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


def _convolution(weights: Weights, name: str, x: Any, *, stride: int = 1, pad: int = 0, reverse: bool = False) -> Any:
    """A convolution with its BatchNorm folded in; `reverse` turns BGR kernels to read RGB."""
    scale = weights[f"{name}_bn/gamma"] / np.sqrt(weights[f"{name}_bn/moving_variance"] + NORM_EPSILON)
    kernel = np.transpose(weights[f"{name}_conv/kernel"] * scale, (3, 2, 0, 1))
    if reverse:
        kernel = kernel[:, ::-1]
    shift = (weights[f"{name}_conv/bias"] - weights[f"{name}_bn/moving_mean"]) * scale + weights[f"{name}_bn/beta"]
    folded = ops.constant(np.ascontiguousarray(kernel, dtype=np.float32))
    plane = ops.convolution(x, folded, [stride, stride], [pad, pad], [pad, pad], [1, 1])
    return ops.add(plane, ops.constant(shift.astype(np.float32).reshape(1, -1, 1, 1)))
