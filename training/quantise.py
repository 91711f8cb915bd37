"""Owns the making of an int8 bundle: ranges from photos, a calibration of its own, and the proof that lets it serve.

Photos are parted by patient and near-duplicate: ranges come from one part, temperature and thresholds from a second,
and the figures that admit it from a third that neither saw.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from shared.bundle import CALIBRATION, CARD, GATE, SEALED, Bundle, load_bundle
from shared.errors import DataRefused, Refused
from shared.registry.records import check_id
from training import manifest
from training.calibration import conformal_threshold, fit_temperature
from training.landing import landing, refuse_occupied
from training.layouts import CLASSES, V1
from training.novelty import limit_of
from training.pictures import look_at_all
from training.publish import write_card
from training.served import run
from worker.inference.answers import probabilities_of
from worker.inference.openvino_engine import OpenVinoEngine
from worker.inference.openvino_int8 import (
    LEVELS,
    counted_resnet50,
    exact_convolutions,
    heads_of,
    is_close,
    resnet50_int8,
)
from worker.inference.parity import AGREEMENT, BOUNDS
from worker.inference.weights import Weights, load_reference, load_weights

#: Fewer held-out photos could not show that.
FEWEST: Final = 200
_RANGE_FOLDS, _FIT_FOLDS = (0,), (1, 2)
_MOST_FOR_RANGES: Final = 300
# The largest difference on other photos may be twice as large: the choice keeps within this part of the bound.
_MARGIN: Final = 1 / 2
#: How many convolutions may stay exact: up to a block of the first stages, or all but the last stage.
BEGINS: Final = (0, 1, 5, 8, 11, 15, 18, 21, 24, 43)


class NotAdmitted(Refused):
    """The bundle in int8 strays further from float32 than may be served. Do not retry."""


def quantise(
    folder: Path,
    photos: Path,
    out: Path,
    model_id: str,
    *,
    fewest: int = FEWEST,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the bundle in ``folder`` anew under ``model_id``, with int8 proved on ``photos``; return the record.

    1. The photos' manifest parts them by patient; ``advance`` is told how many are read.
    2. NNCF finds ranges on the first part.
    3. As many of the network's first convolutions stay exact as it takes for the bounds to hold on the second part:
       skin is one colour over large areas, so what is rounded early is rounded alike everywhere, and adds up.
    4. Temperature, thresholds and the gate's limit are fitted on what int8 says of the second part.
    5. On the third int8 is held against float32, both with that temperature: this is about arithmetic alone.

    Raises ``IdRefused`` for an id under which nothing can be published, ``DataRefused`` for photos that do not fit or
    are too few, ``NotAdmitted`` with the figures.
    """
    bundle = load_bundle(folder)
    check_id(model_id)
    refuse_occupied(out)
    frame = manifest.build(photos)
    _refuse_other_kind(bundle, manifest.describe(frame))
    kinds = _kinds(frame["label"].tolist(), bundle)
    parts = _parts(frame["fold"].to_numpy(), fewest)
    pixels, _ = look_at_all(photos, frame["image"].tolist(), advance=advance)
    weights = load_weights(bundle)
    found = find_ranges(weights, pixels[parts.ranged])
    with tempfile.TemporaryDirectory() as cache:
        exact = run(_engine(bundle, weights, Path(cache)), pixels).logits
        rows = parts.fitted
        fit = _fit(bundle, weights, Path(cache), found=found, pixels=pixels[rows], exact=exact[rows], kinds=kinds[rows])
        coarse, _ = _said(fit.engine, pixels[parts.held])
    record = _record(exact[parts.held], coarse, fit.calibration["temperature"]) | {
        "exact_convolutions": fit.exact_convolutions,
        "rounded_inputs": len(fit.ranges),
        "photos": {"ranges": len(parts.ranged), "calibration": len(parts.fitted), "proof": len(parts.held)},
        "manifest": manifest.describe(frame).digest,
        "synthetic": bool(frame["synthetic"].any()),
        "temperature": fit.calibration["temperature"],
        "temperature_of_f32": float(bundle.calibration["temperature"]),
    }
    if not is_close(record):
        raise NotAdmitted(
            f"int8 gives another label on {record['flipped_labels']} of {len(parts.held):,} photos and moves a "
            f"probability by {record['max_probability_difference']:.3g}; {1 - AGREEMENT:.1%} and {BOUNDS['int8']:g} "
            "are the most"
        )
    _write(bundle, out, model_id, {"ranges": fit.ranges, "calibration": fit.calibration, "record": record})
    return record


@dataclass(frozen=True)
class _Parts:
    """Rows of the manifest, parted by patient: NNCF's, those that calibration is fitted on, those of the proof."""

    ranged: NDArray[np.intp]
    fitted: NDArray[np.intp]
    held: NDArray[np.intp]


def _parts(folds: NDArray[Any], fewest: int) -> _Parts:
    of_ranges, of_fit = np.isin(folds, _RANGE_FOLDS), np.isin(folds, _FIT_FOLDS)
    held = np.flatnonzero(~of_ranges & ~of_fit)
    if len(held) < fewest:
        raise DataRefused(f"{len(held):,} photos are left for the proof; {fewest} are the least: bring more photos")
    return _Parts(np.flatnonzero(of_ranges)[:_MOST_FOR_RANGES], np.flatnonzero(of_fit), held)


@dataclass(frozen=True)
class _Fit:
    """An int8 engine, what is rounded in it, how many first convolutions are not, and its own calibration."""

    engine: OpenVinoEngine
    ranges: dict[str, list[float]]
    exact_convolutions: int
    calibration: dict[str, Any]


def _fit(
    bundle: Bundle, weights: Weights, cache: Path, *, found: Mapping[str, list[float]], pixels: NDArray[np.uint8],
    exact: NDArray[np.float32], kinds: NDArray[np.int64],
) -> _Fit:  # fmt: skip
    """The coarsest that is close to ``exact``, logits [n, classes], on photos [n, 224, 224, 3]; else the finest."""
    counted = convolutions_of(counted_resnet50(weights))
    for first in BEGINS:
        ranges = from_convolution(counted, found, first)
        engine = _engine(bundle, weights, cache, ranges)
        logits, features = _said(engine, pixels)
        calibration = _calibration(bundle, logits, kinds, features)
        if is_close(_record(exact, logits, calibration["temperature"]), _MARGIN):
            break
    return _Fit(engine, ranges, exact_convolutions(resnet50_int8(weights, ranges)), calibration)


def convolutions_of(counted: Any) -> list[int]:
    """The numbers of the convolutions of `counted_resnet50`, in order; there are 53."""
    return [
        _number(operation.get_friendly_name())
        for operation in counted.get_ordered_ops()
        if operation.get_type_name() == "Convolution"
    ]


def from_convolution(
    convolutions: Sequence[int], ranges: Mapping[str, list[float]], first: int
) -> dict[str, list[float]]:
    """The ranges from this convolution on; with 0 all of them."""
    begin = convolutions[first] if first else 0
    return {place: ends for place, ends in ranges.items() if _number(place) >= begin}


def find_ranges(weights: Weights, photos: NDArray[np.uint8]) -> dict[str, list[float]]:
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
    model = counted_resnet50(weights)
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


def _engine(bundle: Bundle, weights: Weights, cache: Path, ranges: Mapping[str, Any] | None = None) -> OpenVinoEngine:
    precision = "f32" if ranges is None else "int8"
    folder = cache / f"{precision}-{len(ranges or ())}"
    folder.mkdir()
    seen = load_reference(bundle).photos
    return OpenVinoEngine(weights, seen=seen, precision=precision, threads=0, cache=folder, ranges=ranges)


def _said(engine: OpenVinoEngine, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    found = run(engine, pixels)
    return found.logits, found.features


def _refuse_other_kind(bundle: Bundle, photos: manifest.Description) -> None:
    """Refuse what would prove nothing: drawn photos for a network of people's, or the reverse; those it learnt from."""
    if photos.synthetic != bundle.synthetic:
        said = {True: "SYNTHETIC", False: "photographs"}
        raise DataRefused(
            f"the photos are {said[photos.synthetic]}, those of bundle {bundle.id} were {said[bundle.synthetic]}: what "
            "int8 does to the ones says nothing of the others"
        )
    if photos.digest == bundle.card.get("data", {}).get("manifest_digest"):
        raise DataRefused(f"bundle {bundle.id} was trained on these very photos: bring others")


def _kinds(labels: Sequence[str], bundle: Bundle) -> NDArray[np.int64]:
    """Each photo's place among the bundle's labels: classes by their names, or MSLD's two, of which mpox is first."""
    names = sorted(set(labels))
    order = {name: place for place, name in enumerate(bundle.labels)}
    if not set(names) <= set(order):
        if tuple(names) != CLASSES[V1] or len(bundle.labels) != len(names):
            raise DataRefused(
                f"the photos have the classes {', '.join(names)}, the bundle {', '.join(bundle.labels)}: name the "
                "folders like its labels"
            )
        order = {name: place for place, name in enumerate(CLASSES[V1])}
    return np.array([order[label] for label in labels], dtype=np.int64)


def _calibration(
    bundle: Bundle, logits: NDArray[np.float32], kinds: NDArray[np.int64], features: NDArray[np.float32]
) -> dict[str, Any]:
    temperature = fit_temperature(logits, kinds)
    p = probabilities_of(logits, temperature)
    return {
        "temperature": temperature,
        "thresholds": {label: conformal_threshold(p[kinds == k, k]) for k, label in enumerate(bundle.labels)},
        "gate_limit": limit_of(load_file(bundle.file(GATE)), features),
    }


def _record(exact: NDArray[np.float32], coarse: NDArray[np.float32], temperature: float) -> dict[str, Any]:
    was, says = probabilities_of(exact, temperature), probabilities_of(coarse, temperature)
    apart = np.abs(was - says).max(axis=1)
    flipped = int((was.argmax(1) != says.argmax(1)).sum())
    return {
        "agreement": 1 - flipped / len(was),
        "flipped_labels": flipped,
        "max_probability_difference": float(apart.max()),
        "mean_probability_difference": float(apart.mean()),
    }


def _write(bundle: Bundle, out: Path, model_id: str, int8: Mapping[str, Any]) -> None:
    """Write the new bundle whole, or not at all."""
    with landing(out) as part:
        for name in (CARD, *SEALED):
            shutil.copyfile(bundle.file(name), part / name)
        stored = dict(bundle.calibration)
        proved = [name for name in stored["precisions"] if name != "int8"]
        sealed = stored | {"id": model_id, "precisions": [*proved, "int8"], "int8": dict(int8)}
        (part / CALIBRATION).write_text(json.dumps(sealed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        card = dict(bundle.card) | {"id": model_id, "quantised_from": bundle.digest, "int8": int8["record"]}
        write_card(part, card)
        load_bundle(part)
