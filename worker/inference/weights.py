"""Owns the reading of a bundle's weights, and the network's shape that the engines build them into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shared.bundle import PARITY, WEIGHTS, Bundle
from shared.errors import BundleAltered

Weights = Mapping[str, NDArray[np.float32]]
# ResNet50 v1 (He et al. 2015, arXiv 1512.03385) as in keras.applications: the stride sits in the first 1x1.
STAGES = ((2, 3, 1), (3, 4, 2), (4, 6, 2), (5, 3, 2))
NORM_EPSILON = 1.001e-5
# Means of the caffe preprocessing in RGB order; the network itself reads BGR.
MEANS = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class Block:
    """One residual block: its layers' common name, the stride of its first convolution, and its kind of shortcut."""

    name: str
    stride: int
    projects: bool


def blocks() -> Iterator[Block]:
    """The sixteen residual blocks in order."""
    for stage, count, stride in STAGES:
        for number in range(1, count + 1):
            yield Block(f"conv{stage}_block{number}", stride if number == 1 else 1, number == 1)


def layers() -> Iterator[str]:
    """The convolutions in order: the first, then each block's, its shortcut's first where it has one."""
    yield "conv1"
    for block in blocks():
        yield from (f"{block.name}_{part}" for part in ((0, 1, 2, 3) if block.projects else (1, 2, 3)))


def load_weights(bundle: Bundle) -> dict[str, NDArray[np.float32]]:
    """The bundle's weights by Keras name ("conv1_conv/kernel", height x width x in x out), widened to float32."""
    return {name: stored.astype(np.float32) for name, stored in _tensors(bundle, WEIGHTS).items()}


def folded(weights: Weights, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel [height, width, in, out] and bias [out] of a convolution with its BatchNorm."""
    scale = weights[f"{name}_bn/gamma"] / np.sqrt(weights[f"{name}_bn/moving_variance"] + NORM_EPSILON)
    kernel = weights[f"{name}_conv/kernel"] * scale
    shift = (weights[f"{name}_conv/bias"] - weights[f"{name}_bn/moving_mean"]) * scale + weights[f"{name}_bn/beta"]
    return kernel.astype(np.float32, copy=False), shift.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Reference:
    """Photos [n, 224, 224, 3] and what Keras in float32 made of the stored weights: logits and evidence."""

    photos: NDArray[np.uint8]
    logits: NDArray[np.float32]
    evidence: NDArray[np.float32]


def load_reference(bundle: Bundle) -> Reference:
    """The bundle's reference photos and answers. Raises BundleAltered where they cannot be read."""
    stored = _tensors(bundle, PARITY)
    try:
        return Reference(stored["photos"], stored["logits"], stored["evidence"])
    except KeyError as error:
        raise BundleAltered(f"{bundle.file(PARITY)} lacks {error}: rebuild the bundle as its README.md says.") from None


def evidence_head(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> tuple[NDArray[np.float32], np.float32]:
    """Kernel [features] and bias of the evidence for the first class against the mean of the others.

    With a pooled head this closed form equals Grad-CAM, and costs one 1x1 convolution.
    """
    direction = kernel[:, 0] - kernel[:, 1:].mean(axis=1)
    return direction.astype(np.float32), np.float32(bias[0] - bias[1:].mean())


def _tensors(bundle: Bundle, name: str) -> dict[str, NDArray[Any]]:
    try:
        return dict(load_file(bundle.file(name)))
    except (OSError, SafetensorError) as error:
        raise BundleAltered(
            f"{bundle.file(name)} cannot be read ({error}): rebuild it as its README.md says."
        ) from error
