"""Owns the TensorFlow engine: the Keras graph as a compiled function, for GPUs and as the reference of the others."""

# ruff: noqa: PLC0415 - TensorFlow is imported by whoever loads this engine and by no one else
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.inference.engine import Outputs
from worker.inference.preprocess import SIDE
from worker.inference.weights import MEANS, Weights, evidence_head

# One shape each: TensorFlow picks its kernels by shape, and every shape is traced once.
_BATCHES = (2, 8, 32)
_POLICIES = {"f32": "float32", "bf16": "mixed_bfloat16"}


def gpu_here() -> bool:
    """Whether TensorFlow sees a GPU; imports TensorFlow."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


class TensorFlowEngine:
    """The Keras network behind `tf.function`. Batches are padded to a few fixed sizes."""

    name = "tensorflow"

    def __init__(self, weights: Weights, *, precision: str, threads: int) -> None:
        import tensorflow as tf

        self.precision = precision
        _prepare(tf, threads)
        model = inference_network(weights, policy=_POLICIES[precision])
        self._tf = tf
        self._call = tf.function(lambda photos: model(photos, training=False), reduce_retracing=False)

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of RGB photos [n, 224, 224, 3], any n >= 1."""
        parts = [self._padded(batch[at : at + _BATCHES[-1]]) for at in range(0, len(batch), _BATCHES[-1])]
        logits, evidence, features = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Outputs(logits, evidence, features)

    def _padded(self, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        count = len(batch)
        size = next(size for size in _BATCHES if size >= count)
        full = np.zeros((size, SIDE, SIDE, 3), dtype=np.uint8)
        full[:count] = batch
        found = self._call(self._tf.constant(full))
        return [np.asarray(found[name], dtype=np.float32)[:count] for name in ("logits", "evidence", "features")]


def _prepare(tf: Any, threads: int) -> None:
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        # TensorFlow is running already, in this process, with the settings of whoever came first.
        return
    # TF32 keeps 10 bits of the mantissa: "f32" must not mean that.
    tf.config.experimental.enable_tensor_float_32_execution(False)


def inference_network(weights: Weights, *, policy: str = "float32") -> Any:
    """The Keras network as served, apart from the one that is trained.

    Nothing in it augments and BatchNorm is called with `training=False`: a copy of a training graph would normalise
    by the batch in hand. Returns a model: uint8 [n, 224, 224, 3] -> dict of logits, evidence, features, in float32.
    """
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        photo = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="photo")
        rgb = keras.ops.cast(photo, "float32") - keras.ops.array(MEANS, dtype="float32")
        base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
        last = keras.ops.cast(base(keras.ops.flip(rgb, axis=-1), training=False), "float32")
    finally:
        keras.config.set_dtype_policy(before)
    load_by_name(base, weights)
    kernel, bias = weights["head/kernel"], weights["head/bias"]
    direction, offset = evidence_head(kernel, bias)
    features = keras.ops.mean(last, axis=(1, 2))
    logits = keras.ops.matmul(features, keras.ops.array(kernel)) + keras.ops.array(bias)
    evidence = keras.ops.matmul(last, keras.ops.array(direction)) + float(offset)
    return keras.Model(photo, {"logits": logits, "evidence": evidence, "features": features}, name="poxvisio")


def load_by_name(base: Any, weights: Weights) -> None:
    """Sets each variable of a Keras ResNet50 from the weights of its name."""
    for layer in base.layers:
        for variable in layer.weights:
            variable.assign(weights[f"{layer.name}/{variable.name}"])
