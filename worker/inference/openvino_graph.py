"""Owns ResNet50 in OpenVINO's operations: as it stands for float32, and in the form that bfloat16 harms least.

OpenVINO's convolutions in bfloat16 sum in float32, and round what they read and what they write. Rounding harms where
it repeats: skin is one colour over large areas, so an error of one pixel is the error of all and does not average out.
Hence four things are kept exact, at no cost worth naming:

- the photo: its bytes are bfloat16 numbers already. Their means come off inside the first convolution, by a fourth
  plane that is one in the picture and nought in its padding (`with_plane_of_ones`);
- the biases: OpenVINO rounds a bias that directly follows a convolution, and no other (`_exactly`);
- the first pooling: its planes are stored less a usual value, since small numbers are rounded by less. The usual values
  are bfloat16 numbers, else every nought would be rounded too;
- the heads: sums of products, which OpenVINO leaves in float32 at the end of a graph, and no matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from worker.inference.engine import OUTPUTS
from worker.inference.preprocess import SIDE
from worker.inference.weights import MEANS, Block, Weights, blocks, evidence_head, folded

Plane = Any  # an OpenVINO node's output: its package has no types
Vector = NDArray[np.float64]
# Puts a bias [channels] on a plane.
_Add = Callable[[Plane, Vector], Plane]
_FAR = 3e38
_THREE_BYTES, _FOURTH_ONE = np.uint32(0xFFFFFF), np.uint32(1 << 24)


def resnet50(weights: Weights) -> ov.Model:
    """uint8 RGB [n, 224, 224, 3] -> logits [n, classes], evidence [n, 7, 7], features [n, 2048]."""
    photo = _photo(3)
    x = _first(weights, photo)
    for block in blocks():
        x = _block(weights, block, x, _plainly)
    return ov.Model(_heads(weights, x), [photo], "poxvisio")


def resnet50_for_bf16(weights: Weights, usual: Vector) -> ov.Model:
    """The same for uint8 [n, 224, 224, 4] from `with_plane_of_ones`; usual [64]: see `usual_of`."""
    photo = _photo(4)
    x = _exact_first(weights, photo, usual)
    for number, block in enumerate(blocks()):
        x = _block(weights, block, x, _exactly, usual if number == 0 else None)
    return ov.Model(_heads(weights, x), [photo], "poxvisio-bf16")


def first_planes(weights: Weights) -> ov.Model:
    """uint8 RGB [n, 224, 224, 3] -> the first pooling [n, 64, 56, 56]."""
    photo = _photo(3)
    return ov.Model([ops.result(_first(weights, photo))], [photo], "poxvisio-first")


def with_plane_of_ones(photos: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Photos [n, 224, 224, 3] with a fourth plane, full of ones.

    Made of words of four bytes, which is faster: each reads its pixel and a byte of the next one.
    """
    packed = np.ascontiguousarray(photos).reshape(-1)
    full = np.empty(packed.size // 3, dtype="<u4")
    overlapping = np.ndarray((full.size - 1,), "<u4", packed, 0, (3,))
    np.bitwise_and(overlapping, _THREE_BYTES, out=full[:-1])
    full[-1] = int.from_bytes(packed[-3:].tobytes(), "little")
    full |= _FOURTH_ONE
    return full.view(np.uint8).reshape(*photos.shape[:3], 4)


def usual_of(planes: NDArray[np.float32]) -> Vector:
    """The mean of each channel of planes [n, channels, height, width], to the nearest bfloat16 number."""
    return rounded_to_bf16(planes.mean(axis=(0, 2, 3), dtype=np.float64))


def rounded_to_bf16(exact: Vector) -> Vector:
    """The nearest numbers of 8 significant bits."""
    fraction, exponent = np.frexp(exact)
    return np.asarray(np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8), dtype=np.float64)


def _photo(planes: int) -> Plane:
    return ops.parameter([-1, SIDE, SIDE, planes], np.uint8, name="photo")


def _first(weights: Weights, photo: Plane) -> Plane:
    """Caffe preprocessing, the first convolution and its pooling."""
    kernel, bias = _folded(weights, "conv1")
    centred = ops.subtract(_upright(photo), _constant(np.reshape(MEANS, (1, 3, 1, 1))))
    x = _plainly(_convolution(kernel[:, ::-1], centred, stride=2, pad=3), bias)  # from BGR to RGB
    return _pooled(ops.relu(x))


def _exact_first(weights: Weights, photo: Plane, usual: Vector) -> Plane:
    """The same, less `usual`: k * (photo - means) = k * photo - (k * means) * ones."""
    kernel, bias = _folded(weights, "conv1")
    kernel = kernel[:, ::-1].astype(np.float64)
    means = -(kernel * np.reshape(MEANS, (1, 3, 1, 1))).sum(axis=1, keepdims=True)
    kept = rounded_to_bf16(means)  # what rounding takes from it is a bias, but for the picture's very border
    x = _convolution(np.concatenate([kernel, kept], axis=1), _upright(photo), stride=2, pad=3)
    x = ops.relu(_exactly(x, bias + (means - kept).sum(axis=(1, 2, 3))))
    return _pooled(_plainly(x, -usual))


def _upright(photo: Plane) -> Plane:
    # Converted first: a transposition that meets the convolution's own reordering costs nothing.
    return ops.transpose(ops.convert(photo, np.float32), _whole([0, 3, 1, 2]))


def _pooled(x: Plane) -> Plane:
    # Keras pads with zeros, OpenVINO with minus infinity; after a ReLU the two maxima are equal.
    return ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)


def _block(weights: Weights, block: Block, x: Plane, add: _Add, less: Vector | None = None) -> Plane:
    """One residual block; `less` [channels] is what the planes of x lack."""

    def part(number: int, x: Plane, *, stride: int = 1, pad: int = 0) -> tuple[Plane, Vector]:
        kernel, bias = _folded(weights, f"{block.name}_{number}")
        if less is not None and number in (0, 1):
            bias = bias + kernel[:, :, 0, 0].astype(np.float64) @ less
        return _convolution(kernel, x, stride=stride, pad=pad), bias

    inner = ops.relu(add(*part(1, x, stride=block.stride)))
    inner = ops.relu(add(*part(2, inner, pad=1)))
    inner, bias = part(3, inner)
    if not block.projects:
        return ops.relu(ops.add(x, _plainly(inner, bias)))
    shortcut, more = part(0, x, stride=block.stride)
    # Two biases that are summed anyway: together they hold what one of them would lose.
    coarse = rounded_to_bf16(bias + more)
    return ops.relu(ops.add(_plainly(shortcut, bias + more - coarse), _plainly(inner, coarse)))


def _heads(weights: Weights, x: Plane) -> list[Plane]:
    kernel, bias = weights["head/kernel"], weights["head/bias"]
    features = ops.reduce_mean(x, _whole([2, 3]), keep_dims=False)
    logits = [_weighed(features, column[None], 1, keep=True) for column in kernel.T]
    direction, offset = evidence_head(kernel, bias)
    evidence = ops.add(_weighed(x, direction.reshape(1, -1, 1, 1), 1, keep=False), _constant(offset))
    nodes = (ops.add(ops.concat(logits, 1), _constant(bias[None])), evidence, features)
    results = [ops.result(node) for node in nodes]
    for name, result in zip(OUTPUTS, results, strict=True):
        result.output(0).get_tensor().set_names({name})
    return results


def _weighed(x: Plane, by: NDArray[np.float32], axis: int, *, keep: bool) -> Plane:
    return ops.reduce_sum(ops.multiply(x, _constant(by)), _whole([axis]), keep_dims=keep)


def _folded(weights: Weights, name: str) -> tuple[NDArray[np.float32], Vector]:
    """Kernel [out, in, height, width], not widened, and bias [out] of a convolution with its BatchNorm."""
    kernel, bias = folded(weights, name)
    return np.transpose(kernel, (3, 2, 0, 1)), bias.astype(np.float64)


def _convolution(kernel: NDArray[Any], x: Plane, *, stride: int = 1, pad: int = 0) -> Plane:
    return ops.convolution(x, _constant(kernel), [stride] * 2, [pad] * 2, [pad] * 2, [1, 1])


def _plainly(x: Plane, bias: Vector) -> Plane:
    return ops.add(x, _constant(bias.reshape(1, -1, 1, 1)))


def _exactly(x: Plane, bias: Vector) -> Plane:
    # A clamp that changes nothing: after it OpenVINO sees no bias but a sum, which it works out in float32.
    return _plainly(ops.clamp(x, -_FAR, _FAR), bias)


def _constant(values: Any) -> Plane:
    return ops.constant(np.ascontiguousarray(values, dtype=np.float32))


def _whole(values: list[int]) -> Plane:
    return ops.constant(np.array(values, dtype=np.int64))
