"""Owns the PyTorch engine: the network in Keras on PyTorch, for GPUs that TensorFlow's build is not to be had for."""

# ruff: noqa: PLC0415 - PyTorch is imported by whoever loads this engine and by no one else
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.inference.batching import CPU_SIZES, as_record, chosen_size, in_shapes, measured_seconds
from worker.inference.devices import tensor_core_halves
from worker.inference.engine import OUTPUTS, Outputs
from worker.inference.keras_backend import POLICIES, keras_on
from worker.inference.preprocess import SIDE
from worker.inference.weights import MEANS, Block, Weights, blocks, evidence_head, folded


def halves_here() -> tuple[str, ...]:
    """The half precisions in which the GPU is faster than in float32, best first; none without a GPU."""
    _, torch = _libraries()
    return tensor_core_halves(torch.cuda.get_device_capability()) if torch.cuda.is_available() else ()


class TorchEngine:
    """The Keras network on PyTorch, run as it stands, in batches of fixed sizes: kernels are picked by shape.

    On a GPU every batch has the one size that measuring chose, so that a photo meets the same kernels in any company.
    Keras' channels-last order is the one that tensor cores want.
    """

    name = "torch"
    first_met: Sequence[int] = ()

    def __init__(self, weights: Weights, *, precision: str, threads: int) -> None:
        keras, torch = _libraries()
        self.precision = precision
        gpu = torch.cuda.is_available()
        _prepare(torch, threads)
        self._keras, self._torch, self._device = keras, torch, "cuda" if gpu else "cpu"
        with keras.device(self._device):
            self._model = inference_network(keras, weights, policy=POLICIES[precision])
        self._sizes: tuple[int, ...] = CPU_SIZES
        self.measured: Mapping[str, object] = {}
        if gpu:
            seconds = measured_seconds(self._run, exhausted=(torch.cuda.OutOfMemoryError,))
            self._sizes = (chosen_size(seconds),)
            torch.cuda.empty_cache()  # what the larger batches took
            self.measured = as_record(torch.cuda.get_device_name(), seconds)

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of RGB photos [n, 224, 224, 3], any n >= 1."""
        return in_shapes(self._run, batch, self._sizes)

    def _run(self, photos: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        with self._keras.device(self._device), self._torch.inference_mode():
            found = self._model(self._torch.from_numpy(photos).to(self._device), training=False)
            return [found[name].float().cpu().numpy() for name in OUTPUTS]


def _libraries() -> tuple[Any, Any]:
    keras = keras_on("torch")
    import torch

    return keras, torch


def _prepare(torch: Any, threads: int) -> None:
    # TF32 keeps 10 bits of the mantissa: "f32" must not mean that.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # Else the fastest kernel of the day is chosen by racing them, and answers move with it.
    torch.backends.cudnn.benchmark = False
    if threads:
        torch.set_num_threads(threads)


def inference_network(keras: Any, weights: Weights, *, policy: str) -> Any:
    """A Keras model: uint8 [n, 224, 224, 3] -> dict of logits, evidence, features, in float32.

    Each BatchNorm is folded into its convolution: PyTorch would run it as five passes over the memory, in float32.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        photo = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="photo")
        x = _first(keras, weights, photo)
        for block in blocks():
            x = _block(keras, weights, block, x)
    finally:
        keras.config.set_dtype_policy(before)
    last = keras.ops.cast(x, "float32")
    kernel, bias = weights["head/kernel"], weights["head/bias"]
    direction, offset = evidence_head(kernel, bias)
    features = keras.ops.mean(last, axis=(1, 2))
    logits = keras.ops.matmul(features, keras.ops.array(kernel)) + keras.ops.array(bias)
    evidence = keras.ops.matmul(last, keras.ops.array(direction)) + float(offset)
    return keras.Model(photo, {"logits": logits, "evidence": evidence, "features": features}, name="poxvisio")


def _first(keras: Any, weights: Weights, photo: Any) -> Any:
    """Caffe preprocessing, the first convolution and its pooling."""
    kernel, shift = folded(weights, "conv1")
    centred = keras.ops.cast(photo, "float32") - keras.ops.array(MEANS, dtype="float32")
    x = keras.layers.ZeroPadding2D(3)(centred)
    x = _applied(keras, kernel[:, :, ::-1], shift, x, stride=2, relu=True)  # from BGR to RGB
    return keras.layers.MaxPooling2D(3, strides=2)(keras.layers.ZeroPadding2D(1)(x))


def _block(keras: Any, weights: Weights, block: Block, x: Any) -> Any:
    def convolution(part: int, x: Any, *, stride: int = 1, relu: bool = False) -> Any:
        return _applied(keras, *folded(weights, f"{block.name}_{part}"), x, stride=stride, relu=relu)

    shortcut = convolution(0, x, stride=block.stride) if block.projects else x
    inner = convolution(1, x, stride=block.stride, relu=True)
    inner = convolution(3, convolution(2, inner, relu=True))
    return keras.layers.ReLU()(keras.layers.Add()([shortcut, inner]))


def _applied(
    keras: Any, kernel: NDArray[np.float32], shift: NDArray[np.float32], x: Any, *, stride: int, relu: bool
) -> Any:
    # Only the 3x3 inside a block is padded, and its stride is 1: "same" is then the same on every side.
    layer = keras.layers.Conv2D(
        kernel.shape[-1],
        kernel.shape[0],
        strides=stride,
        padding="same" if kernel.shape[0] == 3 else "valid",  # noqa: PLR2004
        activation="relu" if relu else None,
    )
    plane = layer(x)
    layer.set_weights([kernel, shift])
    return plane
