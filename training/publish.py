"""Owns the writing of a bundle: weights rounded first, then everything else measured on the rounded ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from shared.bundle import CALIBRATION, CARD, GATE, PARITY, RESEARCH_USE, SEALED, WEIGHTS, digest_of, sha256_of


def rounded(model: Any) -> dict[str, NDArray[Any]]:
    """A trained network's weights by Keras name, as stored.

    Kernels, nine hundred and ninety-five of a thousand bytes, are float16. Biases and BatchNorm vectors stay float32:
    they cost 0.3 MB, and a small moving variance would fall among float16's subnormals and be divided by.
    """
    base = next(layer for layer in model.layers if layer.name == "resnet50")
    head = model.get_layer("head")
    stored: dict[str, NDArray[Any]] = {}
    for layer in [*base.layers, head]:
        for variable in layer.weights:
            exact = np.asarray(variable, dtype=np.float32)
            kind = np.float16 if variable.name == "kernel" and layer is not head else np.float32
            stored[f"{layer.name}/{variable.name}"] = np.ascontiguousarray(exact, dtype=kind)
    return stored


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
    save_file(dict(weights), out / WEIGHTS)
    save_file(dict(gate), out / GATE)
    save_file(dict(parity), out / PARITY)
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
