"""Owns what photos tell int8: where it may round, from where to where, and by what channels are divided before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from shared.errors import DataRefused, Refused
from worker.inference.openvino_int8 import LEVELS, Ranges, counted_resnet50, heads_of
from worker.inference.scaling import Scales, joints, scales_for
from worker.inference.weights import Weights, layers

#: How many convolutions may stay exact: up to a block of the first stages, or all but the last stage.
BEGINS: Final = (0, 1, 5, 8, 11, 15, 18, 21, 24, 43)


class NotAdmitted(Refused):
    """The bundle in int8 strays further from float32 than may be served. Do not retry."""


def convolutions_of(counted: Any) -> list[int]:
    """The numbers of the convolutions of `counted_resnet50`, in order; there are 53."""
    return [
        _number(operation.get_friendly_name())
        for operation in counted.get_ordered_ops()
        if operation.get_type_name() == "Convolution"
    ]


def from_convolution(convolutions: Sequence[int], ranges: Ranges, first: int) -> dict[str, Sequence[float]]:
    """The ranges from this convolution on; with 0 all of them.

    Where a block's shortcut stays exact, so does what is added to it, at no cost: it alone has both signs, so its steps
    are the widest.
    """
    begin = convolutions[first] if first else 0
    kept = {place: ends for place, ends in ranges.items() if _number(place) >= begin}
    earliest = min(_number(place) for place in kept)
    return {
        place: ends
        for place, ends in kept.items()
        if ends[0] >= 0 or _shortcut_of(convolutions, _number(place)) >= earliest
    }


def _shortcut_of(convolutions: Sequence[int], total: int) -> int:
    """The shortcut's convolution in a block of four that ends in this sum."""
    return [number for number in convolutions if number < total][-4]


def find_scales(weights: Weights, photos: NDArray[np.uint8]) -> Scales:
    """What to divide channels by, from their largest values over photos [n, 224, 224, 3] in float32."""
    peaks = _peaks_model(weights)
    compiled = ov.Core().compile_model(peaks, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    largest: dict[str, NDArray[np.float32]] = {}
    for photo in photos:
        said = compiled([photo[None]])
        for output in compiled.outputs:
            now = said[output][0]
            for joint in output.get_names():
                largest[joint] = np.maximum(largest.get(joint, now), now)
    return {joint: scales_for(largest[joint]) for joint in joints()}


def _peaks_model(weights: Weights) -> ov.Model:
    """The float32 graph with each joint's largest values, a channel each, for its results."""
    model = counted_resnet50(weights)
    convolutions = [one for one in model.get_ordered_ops() if one.get_type_name() == "Convolution"]
    read = {layer: one.input_value(0) for layer, one in zip(layers(), convolutions, strict=True)}
    results = []
    for name, joint in joints().items():
        planes = [ops.reduce_max(read[layer], ops.constant([2, 3], dtype=np.int64)) for layer in joint.readers]
        largest = planes[0]
        for plane in planes[1:]:
            largest = ops.maximum(largest, plane)
        result = ops.result(largest)
        result.output(0).get_tensor().set_names({name})
        results.append(result)
    return ov.Model(results, model.get_parameters(), "poxvisio-peaks")


def find_ranges(weights: Weights, photos: NDArray[np.uint8], scales: Scales) -> dict[str, list[float]]:
    """The inputs to round and their ends, by NNCF's post-training quantisation on photos [n, 224, 224, 3]."""
    try:
        import nncf  # noqa: PLC0415 - seconds, and in an extra of its own
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet  # noqa: PLC0415
    except ImportError:
        raise DataRefused(
            "the ranges of int8 are found by NNCF, which is not installed here: "
            "pip install --require-hashes -r requirements/int8.txt"
        ) from None

    nncf.set_log_level(logging.ERROR)
    model = counted_resnet50(weights, scales)
    data = nncf.Dataset([photo[None] for photo in photos])
    rounded = nncf.quantize(
        model,
        data,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(photos),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            # What moves biases is no range: the weights of the bundle stay as they are.
            disable_bias_correction=True,
            # The ends of all photos; the mean of each photo's ends, which is usual, cuts off what one photo has more.
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        ),
        ignored_scope=nncf.IgnoredScope(names=heads_of(model)),
    )
    return _ranges(rounded)


def _ranges(model: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    first = f"op{convolutions_of(model)[0]}"
    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "FakeQuantize" or _is_constant(operation.input_value(0).get_node()):
            continue
        low, high = (operation.input_value(at).get_node().get_data().ravel() for at in (1, 2))
        if low.size != 1 or high.size != 1 or operation.get_attributes()["levels"] != LEVELS:
            raise NotAdmitted("NNCF rounds a plane by channel, which the engine does not")
        for target in operation.output(0).get_target_inputs():
            node = target.get_node()
            # A block's own sum is handed on unrounded at no cost, and the engine rounds the photo by itself.
            if (node.get_type_name() == "Add" and target.get_index()) or node.get_friendly_name() == first:
                continue
            found[f"{node.get_friendly_name()}/{target.get_index()}"] = [float(low[0]), float(high[0])]
    return dict(sorted(found.items()))


def _number(place: str) -> int:
    return int(place.partition("/")[0].removeprefix("op"))


def _is_constant(node: Any) -> bool:
    """Tell whether this is a kernel, however NNCF has packed it."""
    while node.get_type_name() in {"Convert", "Multiply", "Subtract"}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
