"""Owns the training of the network: ResNet50 from scratch, on small pictures first and at 224 px last."""

# ruff: noqa: PLC0415, PLR2004 - TensorFlow takes seconds to import; the recipe's numbers are its content
from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from training.dataset import Photos

log = logging.getLogger(__name__)
SEED = 7
BATCH = 16
LABEL_SMOOTHING = 0.05


@dataclass(frozen=True)
class Stage:
    """Some epochs at one side in pixels; the learning rate falls from `first` to `last` along a cosine."""

    side: int
    epochs: int
    first: float
    last: float


# Weights learnt at 96 px alone are at chance at 224 px, and a network from scratch is at chance for three epochs.
STAGES = (Stage(96, 9, 5e-4, 2e-4), Stage(160, 3, 3e-4, 1e-4), Stage(224, 4, 1.5e-4, 2e-6))


def network(classes: int, *, precision: str = "float32") -> Any:
    """A Keras ResNet50 with one logit per class: RGB uint8 [n, h, w, 3] -> logits [n, classes].

    The caffe preprocessing (BGR, means subtracted) is part of the graph, and nothing in it augments: a layer that
    defaults to `training=True` would put BatchNorm into training mode in every exported copy.
    """
    import keras

    keras.config.set_dtype_policy(precision)
    photo = keras.Input((None, None, 3), dtype="uint8", name="photo")
    x = keras.ops.cast(photo, "float32")
    x = keras.ops.flip(x, axis=-1) - keras.ops.array([103.939, 116.779, 123.68], dtype="float32")
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(None, None, 3), pooling="avg")
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    logits = keras.layers.Dense(classes, dtype="float32", name="head")(base(x))
    return keras.Model(photo, logits, name="poxvisio")


def augmented(pixels: NDArray[np.uint8], side: int, draws: np.random.Generator) -> NDArray[np.uint8]:
    """One photo turned, mirrored, zoomed by up to a tenth either way, dimmed or lit, and resized to `side`."""
    turned = np.rot90(pixels, int(draws.integers(4)))
    if draws.random() < 0.5:
        turned = turned[:, ::-1]
    was = turned.shape[0]
    wide = was + 2 * (was // 9)
    picture = Image.fromarray(np.pad(turned, ((was // 9,) * 2, (was // 9,) * 2, (0, 0)), mode="reflect"))
    picture = picture.rotate(draws.uniform(-8, 8), Image.Resampling.BILINEAR)
    width, height = was * draws.uniform(0.9, 1.1, 2)
    left, top = (wide - width) * draws.uniform(0.3, 0.7), (wide - height) * draws.uniform(0.3, 0.7)
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    picture = ImageEnhance.Brightness(picture).enhance(draws.uniform(0.85, 1.15))
    return np.asarray(ImageEnhance.Contrast(picture).enhance(draws.uniform(0.85, 1.15)), dtype=np.uint8)


def resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Photos [n, 224, 224, 3] at another side; the very same array at 224."""
    if pixels.shape[1] == side:
        return pixels
    small = [Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC) for p in pixels]
    return np.stack([np.asarray(p, dtype=np.uint8) for p in small])


def _batches(photos: Photos, side: int, epoch_seed: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    draws = np.random.default_rng([SEED, epoch_seed])
    order = draws.permutation(len(photos.kinds))
    steps = [order[at : at + BATCH] for at in range(0, len(order) - BATCH + 1, BATCH)]

    def one(chosen: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return np.stack([augmented(photos.pixels[i], side, draws) for i in chosen]), photos.kinds[chosen]

    with ThreadPoolExecutor(1) as ahead:  # one thread, so that the draws keep their order
        waiting = ahead.submit(one, steps[0])
        for following in [*steps[1:], None]:
            ready = waiting.result()
            if following is not None:
                waiting = ahead.submit(one, following)
            yield ready


def predict(model: Any, pixels: NDArray[np.uint8], batch: int = 16) -> NDArray[np.float32]:
    """Logits [n, classes] in inference mode."""
    import tensorflow as tf

    call = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    parts = [call(tf.constant(pixels[at : at + batch])).numpy() for at in range(0, len(pixels), batch)]
    return np.concatenate(parts).astype(np.float32)


def auc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, by ranks (Mann and Whitney 1947)."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - n * (n + 1) / 2.0) / (n * m))


def learn(train: Photos, validation: Photos, work: Path, *, stages: tuple[Stage, ...] = STAGES,
          precision: str = "mixed_bfloat16", start: tuple[int, int] = (0, 0)) -> Path:  # fmt: skip
    """Trains through all stages and returns the last checkpoint; one checkpoint is kept per epoch.

    `start` (stage, epoch) takes up after the checkpoint before it.
    """
    import keras
    import tensorflow as tf

    work.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    model = network(2, precision=precision)
    optimizer = keras.optimizers.AdamW(5e-4, weight_decay=1e-4)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=LABEL_SMOOTHING)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(tf.one_hot(y, 2), model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    checkpoint = work / "none"
    per_epoch = len(train.kinds) // BATCH
    for number, stage in enumerate(stages):
        seen = resized(validation.pixels, stage.side)
        for epoch in range(stage.epochs):
            previous, checkpoint = checkpoint, work / f"stage{number}-epoch{epoch}.weights.h5"
            if (number, epoch) < start:
                continue
            if (number, epoch) == start and start > (0, 0):
                model.load_weights(previous)
            began, losses = time.monotonic(), []
            for at, (x, y) in enumerate(_batches(train, stage.side, 100 * number + epoch)):
                done = (epoch + at / per_epoch) / stage.epochs
                rate = stage.last + (stage.first - stage.last) * 0.5 * (1.0 + math.cos(math.pi * done))
                warm = min(1.0, (epoch * per_epoch + at + 1) / 100.0)
                optimizer.learning_rate.assign(rate * warm)
                losses.append(float(step(tf.constant(x), tf.constant(y))))
                if at % 20 == 19:
                    speed = BATCH * (at + 1) / (time.monotonic() - began)
                    log.info("%d px epoch %d step %d loss %.3f, %.1f photos/s",
                             stage.side, epoch, at + 1, float(np.mean(losses[-20:])), speed)  # fmt: skip
            model.save_weights(checkpoint)
            logits = predict(model, seen)
            area = auc(logits[:, 0] - logits[:, 1], validation.kinds == 0)
            right = float(np.mean(logits.argmax(1) == validation.kinds))
            log.info("%d px epoch %d: loss %.3f, validation AUC %.3f accuracy %.3f, %.0f s",
                     stage.side, epoch, float(np.mean(losses)), area, right, time.monotonic() - began)  # fmt: skip
    return checkpoint
