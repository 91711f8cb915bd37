"""Owns ResNet50 in int8: the float32 graph with rounding where a bundle says so, and with the ranges that it stores.

A bundle stores numbers alone, no graph: which inputs of which operations are rounded, from where to where, and by what
channels are divided before (`scaling`), so that small ones are rounded as finely as large ones. Kernels
are rounded by their own largest value, a channel each. The first convolution is rounded always, and harms least: it
reads the photo's own bytes, and its kernels are rounded so that the errors of neighbours cancel. So what computes is
always this program's network, and the ranges are as sealed as the rest of ``calibration.json``. Operations are counted
in the order in which OpenVINO sorts the graph that ``resnet50`` makes; ranges that were taken from another order fail
the parity check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from shared.bundle import CALIBRATION, Bundle
from shared.errors import BundleAltered, EngineRefused
from worker.inference.openvino_graph import resnet50
from worker.inference.parity import AGREEMENT, BOUNDS
from worker.inference.preprocess import SIDE
from worker.inference.scaling import Scales, scaled
from worker.inference.weights import MEANS, Weights

# Low and high end by place: "op12/0" is the first input of the twelfth operation.
Ranges = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Rounding:
    """Where int8 rounds, from where to where, and by what channels are divided before."""

    ranges: Ranges
    scales: Scales = field(default_factory=dict)


LEVELS: Final = 256
# Symmetric around nought: -127 to 127.
_KERNEL_LEVELS: Final = 255
_LARGEST_BYTE: Final = 255
# What the first convolution reads beyond the picture's border.
_BORDER: Final = 3


def rounding_of(bundle: Bundle) -> Rounding:
    """What a bundle was quantised with. Raises EngineRefused where it was not, or without a proof."""
    record = bundle.calibration.get("int8")
    if not isinstance(record, Mapping):
        raise EngineRefused(
            f"bundle {bundle.id} was not quantised: serve it in another precision, or make one that was "
            "(poxvisio models quantise)."
        )
    proof = record.get("record")
    if not isinstance(proof, Mapping) or not is_close(proof):
        raise EngineRefused(
            f"bundle {bundle.id} holds no proof that int8 stays close to float32: see poxvisio models quantise."
        )
    ranges = record.get("ranges")
    if not isinstance(ranges, Mapping) or not all(_is_range(ends) for ends in ranges.values()):
        raise BundleAltered(f"{bundle.file(CALIBRATION)} holds no ranges for int8: quantise the bundle again.")
    scales = record.get("scales", {})
    if not isinstance(scales, Mapping) or not all(_are_scales(numbers) for numbers in scales.values()):
        raise BundleAltered(f"{bundle.file(CALIBRATION)} holds no scales for int8: quantise the bundle again.")
    return Rounding(ranges, scales)


def is_close(proof: Mapping[str, Any], margin: float = 1.0) -> bool:
    """Whether int8 kept within this part of the bounds, by `agreement` and `max_probability_difference`."""
    apart, agreed = proof.get("max_probability_difference", np.inf), proof.get("agreement", 0.0)
    return bool(agreed >= AGREEMENT and apart <= margin * BOUNDS["int8"])


def counted_resnet50(weights: Weights, scales: Scales | None = None) -> ov.Model:
    """The float32 graph, its channels scaled where asked, with its operations named by their count."""
    model = resnet50(scaled(weights, scales or {}))
    for number, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"op{number}")
    return model


def heads_of(model: ov.Model) -> list[str]:
    """The names of the operations behind the last feature map, which stay exact: they cost nothing."""
    ordered = model.get_ordered_ops()
    last = max(at for at, operation in enumerate(ordered) if operation.get_type_name() == "Relu")
    behind = {ordered[last].get_friendly_name()}
    for operation in ordered[last + 1 :]:
        sources = {value.get_node().get_friendly_name() for value in operation.input_values()}
        if sources & behind:
            behind.add(operation.get_friendly_name())
    return sorted(behind - {ordered[last].get_friendly_name()})


def resnet50_int8(weights: Weights, rounding: Rounding) -> ov.Model:
    """uint8 [n, 230, 230, 3] from `with_means_around` -> the network's outputs; EngineRefused for an unknown place."""
    model = counted_resnet50(weights, rounding.scales)
    by_name = {operation.get_friendly_name(): operation for operation in model.get_ordered_ops()}
    first, *others = _convolutions_of(model)
    made: dict[tuple[str, int, float, float], Any] = {}
    for place, (low, high) in sorted(rounding.ranges.items()):
        name, _, port = place.partition("/")
        if name not in by_name or int(port) >= len(by_name[name].inputs()):
            raise EngineRefused(f"the network has no {place}: the bundle was quantised for another graph.")
        if (by_name[name].get_type_name() == "Add" and port != "0") or name == first.get_friendly_name():
            raise EngineRefused(f"the network rounds no {place} any more: quantise the bundle again.")
        target = by_name[name].input(int(port))
        source = target.get_source_output()
        key = (source.get_node().get_friendly_name(), source.get_index(), float(low), float(high))
        if key not in made:
            made[key] = _rounded(source, float(low), float(high))
        target.replace_source_output(made[key].output(0))
    for convolution in others:
        if _reads_rounded(convolution):
            _round_kernel(convolution)
    return ov.Model(model.get_results(), [_read_bytes(first)], "poxvisio-int8")


def _convolutions_of(model: ov.Model) -> list[Any]:
    """The network's convolutions in order."""
    return [operation for operation in model.get_ordered_ops() if operation.get_type_name() == "Convolution"]


def exact_convolutions(model: ov.Model) -> int:
    """How many convolutions of an int8 network are not rounded."""
    return sum(one.input_value(1).get_node().get_type_name() == "Constant" for one in _convolutions_of(model))


def with_means_around(photos: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Photos [n, 224, 224, 3] in a border of 3 pixels of the means' nearest bytes: nought once centred."""
    side = SIDE + 2 * _BORDER
    # By rows of bytes: pixel by pixel takes many times as long.
    full = np.empty((len(photos), side, side * 3), dtype=np.uint8)
    full[...] = np.tile(np.rint(MEANS).astype(np.uint8), side)
    full[:, _BORDER:-_BORDER, 3 * _BORDER : -3 * _BORDER] = photos.reshape(len(photos), SIDE, SIDE * 3)
    return full.reshape(len(photos), side, side, 3)


def cancelling(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Kernel [out, in, height, width] in 127 steps either way, each error handed on to the next tap of its plane.

    Rounding to the nearest adds up where the picture is of one colour, as skin is: these errors sum to half a step at
    most (error diffusion, Floyd and Steinberg 1976).
    """
    step = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True).astype(np.float64) / (_KERNEL_LEVELS // 2)
    step = np.where(step > 0, step, 1e-8)
    planes = (kernel / step).reshape(*kernel.shape[:2], -1)
    rounded = np.empty_like(planes)
    left = np.zeros(planes.shape[:2])
    for tap in range(planes.shape[-1]):
        wanted = planes[..., tap] + left
        rounded[..., tap] = np.clip(np.rint(wanted), -(_KERNEL_LEVELS // 2), _KERNEL_LEVELS // 2)
        left = wanted - rounded[..., tap]
    return (rounded.reshape(kernel.shape) * step).astype(np.float32)


def _read_bytes(first: Any) -> Any:
    """Let the first convolution read bytes from a new parameter, which is returned: means go into the bias."""
    photo = ops.parameter([-1, SIDE + 2 * _BORDER, SIDE + 2 * _BORDER, 3], np.uint8, name="photo")
    read = _rounded(ops.convert(photo, np.float32).output(0), 0.0, _LARGEST_BYTE)
    upright = ops.transpose(read, ops.constant(np.array([0, 3, 1, 2], dtype=np.int64)))
    kernel = first.input_value(1).get_node().get_data().astype(np.float32)
    (add,) = (target.get_node() for target in first.output(0).get_target_inputs())
    bias = add.input_value(1).get_node().get_data()
    means = (kernel.astype(np.float64) * np.reshape(MEANS, (1, 3, 1, 1))).sum(axis=(1, 2, 3)).reshape(bias.shape)
    convolution = ops.convolution(upright, ops.constant(cancelling(kernel)), [2, 2], [0, 0], [0, 0], [1, 1])
    _round_kernel(convolution)
    add.input(0).replace_source_output(convolution.output(0))
    add.input(1).replace_source_output(ops.constant((bias - means).astype(np.float32)).output(0))
    return photo


def _reads_rounded(convolution: Any) -> bool:
    source = convolution.input_value(0).get_node()
    if source.get_type_name() == "MaxPool":
        source = source.input_value(0).get_node()
    return bool(source.get_type_name() == "FakeQuantize")


def _rounded(source: Any, low: float, high: float) -> Any:
    ends = [ops.constant(np.full((1, 1, 1, 1), end, dtype=np.float32)) for end in (low, high)]
    return ops.fake_quantize(source, *ends, *ends, LEVELS)


def _round_kernel(convolution: Any) -> None:
    kernel = convolution.input(1).get_source_output()
    values = kernel.get_node().get_data()
    largest = np.abs(values).max(axis=(1, 2, 3), keepdims=True).astype(np.float32)
    largest = np.where(largest > 0, largest, np.float32(1e-8))
    low, high = ops.constant(-largest), ops.constant(largest)
    convolution.input(1).replace_source_output(
        ops.fake_quantize(kernel, low, high, low, high, _KERNEL_LEVELS).output(0)
    )


def _is_range(ends: object) -> bool:
    return (
        isinstance(ends, Sequence)
        and len(ends) == 2  # noqa: PLR2004  # two ends
        and all(isinstance(end, float | int) and np.isfinite(end) for end in ends)
        and ends[0] < ends[1]
    )


def _are_scales(numbers: object) -> bool:
    return isinstance(numbers, Sequence) and all(
        isinstance(number, float | int) and np.isfinite(number) and number > 0 for number in numbers
    )
