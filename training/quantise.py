"""Owns the making of an int8 bundle: ranges from photos, a calibration of its own, and the proof that lets it serve.

Photos are parted by patient and near-duplicate: ranges come from one part, temperature and thresholds from a second,
and the figures that admit it from a third that neither saw.
"""

from __future__ import annotations

import json
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
from shared.errors import DataRefused
from shared.registry.records import check_id
from training import manifest
from training.calibration import conformal_threshold, fit_temperature
from training.landing import landing, refuse_occupied
from training.layouts import CLASSES, V1
from training.novelty import limit_of
from training.pictures import look_at_all
from training.publish import write_card
from training.rounding import BEGINS, NotAdmitted, convolutions_of, find_ranges, find_scales, from_convolution
from training.served import run
from worker.inference.answers import probabilities_of
from worker.inference.openvino_engine import OpenVinoEngine
from worker.inference.openvino_int8 import (
    Rounding,
    counted_resnet50,
    exact_convolutions,
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
    2. The first part tells the scales of channels, and NNCF their ranges.
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
    scales = find_scales(weights, pixels[parts.ranged])
    found = Rounding(find_ranges(weights, pixels[parts.ranged], scales), scales)
    with tempfile.TemporaryDirectory() as cache:
        exact = run(_engine(bundle, weights, Path(cache)), pixels).logits
        rows = parts.fitted
        fit = _fit(bundle, weights, Path(cache), found=found, pixels=pixels[rows], exact=exact[rows], kinds=kinds[rows])
        coarse, _ = _said(fit.engine, pixels[parts.held])
    record = _record(exact[parts.held], coarse, fit.calibration["temperature"]) | {
        "exact_convolutions": fit.exact_convolutions,
        "rounded_inputs": len(fit.rounding.ranges),
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
    sealed = {"ranges": fit.rounding.ranges, "scales": fit.rounding.scales}
    _write(bundle, out, model_id, sealed | {"calibration": fit.calibration, "record": record})
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
    rounding: Rounding
    exact_convolutions: int
    calibration: dict[str, Any]


def _fit(
    bundle: Bundle, weights: Weights, cache: Path, *, found: Rounding, pixels: NDArray[np.uint8],
    exact: NDArray[np.float32], kinds: NDArray[np.int64],
) -> _Fit:  # fmt: skip
    """The coarsest that is close to ``exact``, logits [n, classes], on photos [n, 224, 224, 3]; else the finest."""
    counted = convolutions_of(counted_resnet50(weights))
    for first in BEGINS:
        rounding = Rounding(from_convolution(counted, found.ranges, first), found.scales)
        engine = _engine(bundle, weights, cache, rounding)
        logits, features = _said(engine, pixels)
        calibration = _calibration(bundle, logits, kinds, features)
        if is_close(_record(exact, logits, calibration["temperature"]), _MARGIN):
            break
    return _Fit(engine, rounding, exact_convolutions(resnet50_int8(weights, rounding)), calibration)


def _engine(bundle: Bundle, weights: Weights, cache: Path, rounding: Rounding | None = None) -> OpenVinoEngine:
    precision = "f32" if rounding is None else "int8"
    folder = cache / f"{precision}-{len(rounding.ranges) if rounding else 0}"
    folder.mkdir()
    seen = load_reference(bundle).photos
    return OpenVinoEngine(weights, seen=seen, precision=precision, threads=0, cache=folder, rounding=rounding)


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
