"""Owns the writing of a bundle: weights rounded first, then everything else measured on the rounded ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from shared.bundle import CALIBRATION, CARD, GATE, PARITY, RESEARCH_USE, SEALED, WEIGHTS, digest_of, sha256_of
from worker.inference.weights import NORM_EPSILON


def rounded(model: Any) -> dict[str, NDArray[Any]]:
    """A trained network's weights by Keras name, as stored.

    1. Folds each BatchNorm into the convolution before it and leaves an identity in its place: engines fold it
       anyway, and what they would round afterwards could not be rounded beforehand.
    2. Rounds kernels to bfloat16 and stores them as float16, which holds these values exactly: then an engine in bf16
       strays by its activations alone, a quarter of what it strays otherwise.
    3. Keeps biases, BatchNorm vectors and the head in float32: they cost 0.3 MB.
    """
    base = next(layer for layer in model.layers if layer.name == "resnet50")
    exact = {
        f"{layer.name}/{variable.name}": np.asarray(variable, dtype=np.float32)
        for layer in [*base.layers, model.get_layer("head")]
        for variable in layer.weights
    }
    stored: dict[str, NDArray[Any]] = {**exact}
    for name in (key.removesuffix("_conv/kernel") for key in exact if key.endswith("_conv/kernel")):
        variance, mean = exact[f"{name}_bn/moving_variance"], exact[f"{name}_bn/moving_mean"]
        scale = exact[f"{name}_bn/gamma"] / np.sqrt(variance + NORM_EPSILON)
        stored[f"{name}_conv/kernel"] = to_bfloat16(exact[f"{name}_conv/kernel"] * scale).astype(np.float16)
        stored[f"{name}_conv/bias"] = (exact[f"{name}_conv/bias"] - mean) * scale + exact[f"{name}_bn/beta"]
        stored[f"{name}_bn/gamma"] = np.ones_like(scale)
        stored[f"{name}_bn/beta"] = stored[f"{name}_bn/moving_mean"] = np.zeros_like(scale)
        stored[f"{name}_bn/moving_variance"] = np.full_like(scale, 1.0 - NORM_EPSILON)
    return {name: np.ascontiguousarray(value) for name, value in stored.items()}


def to_bfloat16(exact: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounds to the nearest value of 8 significant bits, ties to even, still held as float32."""
    bits = np.ascontiguousarray(exact, dtype=np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return kept.astype(np.uint32).view(np.float32)


def widened(stored: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The stored weights as the engines load them."""
    return {name: value.astype(np.float32) for name, value in stored.items()}


def write_bundle(
    out: Path,
    *,
    weights: Mapping[str, NDArray[Any]],
    calibration: Mapping[str, Any],
    gate: Mapping[str, NDArray[Any]],
    parity: Mapping[str, NDArray[Any]],
    card: Mapping[str, Any],
) -> str:
    """Writes the sealed files, then the card that lists their SHA-256, and returns the digest."""
    out.mkdir(parents=True, exist_ok=True)
    for name, tensors in ((WEIGHTS, weights), (GATE, gate), (PARITY, parity)):
        # Its own writer tells of a full disk by an error of its own, and keeps the file from workers of other users.
        # It also stores the memory of an array as it lies, whatever the strides say.
        (out / name).write_bytes(save({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
    (out / CALIBRATION).write_text(_pretty(calibration), encoding="utf-8")
    return write_card(out, {"use": "research-only", "statement": RESEARCH_USE, **card})


def write_card(out: Path, card: Mapping[str, Any]) -> str:
    """Writes the card over the sealed files as they lie in `out`, and returns the digest."""
    files = {name: sha256_of(out / name) for name in SEALED}
    digest = digest_of(files)
    rest = {name: value for name, value in card.items() if name not in {"id", "digest", "files"}}
    (out / CARD).write_text(_pretty({"id": card["id"], "digest": digest, **rest, "files": files}), encoding="utf-8")
    return digest


def _pretty(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
