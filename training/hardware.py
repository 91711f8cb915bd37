"""Owns what a training asks of the machine: in which arithmetic it runs, and on how many GPUs."""

# ruff: noqa: PLC0415 - TensorFlow takes seconds to import
from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from shared.processors import processors
from worker.inference.compiled import processor_name
from worker.inference.keras_backend import POLICIES
from worker.inference.tensorflow_engine import halves_here

AUTO: Final = "auto"


def prepare() -> None:
    """Makes TensorFlow repeat itself bit for bit, and take of a GPU's memory what it needs alone."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def forget_networks() -> None:
    """Frees what Keras keeps of earlier networks. Never within a strategy's scope, whose graph it would take away."""
    import keras

    keras.utils.clear_session()


def precision_here(asked: str) -> str:
    """Keras' policy for the arithmetic asked for."""
    return precision_of(asked, halves_here() if asked == AUTO else ())


def precision_of(asked: str, halves: Sequence[str]) -> str:
    """Left to us, mixed precision where the GPU is faster in a half precision (best first), float32 elsewhere."""
    if asked != AUTO:
        return asked
    return POLICIES[halves[0]] if halves else POLICIES["f32"]


def strategy_over(devices: Sequence[str]) -> Any:
    """How batches are spread: over several devices a copy of the network on each, whose gradients are summed."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(devices)) if len(devices) > 1 else tf.distribute.get_strategy()


def gpus() -> list[str]:
    """The GPUs that TensorFlow may use, by its names."""
    import tensorflow as tf

    return [device.name for device in tf.config.list_logical_devices("GPU")]


def gpu_names() -> list[str]:
    """The GPUs that TensorFlow sees, as their makers call them."""
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return [str(tf.config.experimental.get_device_details(one).get("device_name", one.name)) for one in found]


def machine() -> str:
    """Processor, GPUs, system and Python, for the report."""
    here = [f"{processor_name()} ({processors()} cores, {platform.machine()})", *gpu_names()]
    return ", ".join([*here, platform.system(), f"Python {platform.python_version()}"])


def versions() -> dict[str, str]:
    """What computed: libraries by their names. TensorFlow is packed under several."""
    import tensorflow as tf

    named = {name: version(name) for name in ("keras", "numpy", "pillow", "openvino", "scikit-learn")}
    return {"tensorflow": str(tf.__version__), **named}
