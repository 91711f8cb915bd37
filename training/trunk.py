"""Owns the network that is trained: the ResNet50 trunk behind its preprocessing, with a head of one logit per class.

What is served is built apart from it, by `worker/inference`: a copy of a training graph would normalise by the batch.
"""

# ruff: noqa: PLC0415 - TensorFlow takes seconds to import
from __future__ import annotations

from typing import Any, Final

from training.backbone import Start, load_start
from worker.inference.weights import MEANS

MOMENTUM: Final = 0.9  # Keras' 0.99 lags too far behind where a network from scratch sees a few hundred batches


def build(classes: int, start: Start, seed: int, *, dropout: float, precision: str) -> Any:
    """A Keras network to train: RGB uint8 [n, side, side, 3], any side -> logits [n, classes].

    The caffe preprocessing (BGR, means subtracted) is in the graph and augmentation is not: a layer that defaults to
    `training=True` would put BatchNorm into training mode in every copy. Where weights are transferred, BatchNorm stays
    frozen. Raises TrainingRefused for weights that do not fit.
    """
    import keras

    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    photo = keras.Input((None, None, 3), dtype="uint8", name="photo")
    rgb = keras.ops.cast(photo, "float32") - keras.ops.array(MEANS, dtype="float32")
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(None, None, 3), pooling="avg")
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    load_start(base, start)
    bgr = keras.ops.flip(rgb, axis=-1)
    features = base(bgr, training=False) if start.transfers else base(bgr)
    dropped = keras.layers.Dropout(dropout, seed=seed)(features)
    logits = keras.layers.Dense(classes, dtype="float32", name="head")(dropped)
    return keras.Model(photo, logits, name="poxvisio")


def trunk_of(network: Any) -> Any:
    """The ResNet50 inside."""
    return network.get_layer("resnet50")
