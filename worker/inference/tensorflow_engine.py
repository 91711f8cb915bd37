"""Owns the TensorFlow engine: the Keras graph as a compiled function, for GPUs and as the reference of the others."""

# ruff: noqa: PLC0415 - TensorFlow is imported by whoever loads this engine and by no one else
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
from worker.inference.weights import MEANS, Weights, evidence_head


def halves_here() -> tuple[str, ...]:
    """The half precisions in which the GPU is faster than in float32, best first; none without a GPU."""
    tf = _tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return ()
    capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
    return tensor_core_halves(tuple(capability))


class TensorFlowEngine:
    """The Keras network behind `tf.function`, in batches of fixed sizes: TensorFlow picks its kernels by shape.

    On a GPU XLA compiles it and every batch has the one size that measuring chose, so that a photo meets the same
    kernels in any company.
    """

    name = "tensorflow"
    first_met: Sequence[int] = ()  # seconds for each further shape

    def __init__(self, weights: Weights, *, precision: str, threads: int) -> None:
        tf = _tensorflow()
        self.precision = precision
        gpus = tf.config.list_physical_devices("GPU")
        _prepare(tf, gpus, threads)
        model = inference_network(weights, policy=POLICIES[precision])
        self._tf = tf
        # XLA gains on a GPU and loses on a CPU.
        self._call = tf.function(
            lambda photos: model(photos, training=False), reduce_retracing=False, jit_compile=bool(gpus)
        )
        self._sizes: tuple[int, ...] = CPU_SIZES
        self.measured: Mapping[str, object] = {}
        if gpus:
            seconds = measured_seconds(self._run, exhausted=(tf.errors.ResourceExhaustedError,))
            self._sizes = (chosen_size(seconds),)
            details = tf.config.experimental.get_device_details(gpus[0])
            self.measured = as_record(details.get("device_name", "GPU"), seconds)

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of RGB photos [n, 224, 224, 3], any n >= 1."""
        return in_shapes(self._run, batch, self._sizes)

    def _run(self, photos: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        found = self._call(self._tf.constant(photos))
        return [np.asarray(found[name], dtype=np.float32) for name in OUTPUTS]


def _tensorflow() -> Any:
    keras_on("tensorflow")
    import tensorflow as tf

    return tf


def _prepare(tf: Any, gpus: list[Any], threads: int) -> None:
    # TF32 keeps 10 bits of the mantissa: "f32" must not mean that.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        for gpu in gpus:
            # Else TensorFlow takes the whole memory of the GPU at once.
            tf.config.experimental.set_memory_growth(gpu, True)
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        # TensorFlow is running already, in this process, with the settings of whoever came first.
        return


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
