"""Owns what training does to photos, in the input pipeline and never in the network, which would be served with it."""

# ruff: noqa: PLC0415, PLR2004 - TensorFlow takes seconds to import; the strengths are the content
from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: What training makes of photos, by number: a run does not go on where it would see others than it began with. Whoever
#: changes anything below that changes pictures, or their order, counts on.
PICTURES: Final = "1"


def batches(
    pixels: Any, truth: NDArray[np.float32], weights: NDArray[np.float32], rows: NDArray[np.intp], *,
    side: int, batch: int, seed: tuple[int, int],
) -> Any:  # fmt: skip
    """One epoch of a tensor of photos [n, s, s, 3] as a tf.data set of (photos [batch, side, side, 3], truth, weight).

    Photos are changed before they are made smaller: small ones would be blurred by it, and no longer like those that
    training is validated on. Order and changes follow from `seed` and the row alone, so that an epoch is the same
    whenever and wherever it runs.
    """
    import tensorflow as tf

    order = np.random.default_rng(list(seed)).permutation(rows)
    least = max(batch, 2)
    dataset = tf.data.Dataset.from_tensor_slices((order.astype(np.int64), truth[order], weights[order]))

    def one(row: Any, label: Any, weight: Any) -> tuple[Any, Any, Any]:
        key = tf.stack([tf.constant(seed[0] * 100_003 + seed[1], tf.int64), row])
        photo = tf.ensure_shape(changed(tf.gather(pixels, row), key), pixels.shape[1:])
        return smaller(photo, side), label, weight

    found = dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return found.batch(least, drop_remainder=len(order) > least).prefetch(1)


def changed(photo: Any, key: Any) -> Any:
    """A photo [s, s, 3] turned, mirrored, shifted, zoomed by up to a tenth, dimmed or lit, as uint8."""
    import tensorflow as tf

    draw = tf.random.stateless_uniform([9], key)
    side = tf.cast(tf.shape(photo)[0], tf.float32)
    photo = tf.image.rot90(photo, tf.cast(draw[0] * 4.0, tf.int32))
    photo = tf.cond(draw[1] < 0.5, lambda: photo[:, ::-1], lambda: photo)
    angle, zoom = (draw[2] - 0.5) * 0.28, 0.9 + 0.2 * draw[3]
    cosine, sine, middle = zoom * tf.cos(angle), zoom * tf.sin(angle), (side - 1.0) / 2.0
    across = middle - cosine * middle + sine * middle + (draw[4] - 0.5) * 0.1 * side
    down = middle - sine * middle - cosine * middle + (draw[5] - 0.5) * 0.1 * side
    transform = tf.stack([cosine, -sine, across, sine, cosine, down, 0.0, 0.0])[None]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(photo, tf.float32)[None],
        transforms=transform,
        output_shape=tf.shape(photo)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]
    mean = tf.reduce_mean(moved)
    lit = ((moved - mean) * (0.85 + 0.3 * draw[6]) + mean) * (0.85 + 0.3 * draw[7])
    return tf.cast(tf.clip_by_value(tf.round(lit), 0.0, 255.0), tf.uint8)


def smaller(photo: Any, side: int) -> Any:
    """A uint8 photo [s, s, 3] at another side, antialiased as those of the validation are; the same at its own."""
    import tensorflow as tf

    if photo.shape[0] == side:
        return photo
    scaled = tf.image.resize(photo, (side, side), method="bicubic", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(scaled), 0.0, 255.0), tf.uint8)
