"""Owns the choice of the library beneath Keras, which a process makes once, when it first imports Keras."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any, Literal

from shared.errors import EngineRefused

# Keras' names for the arithmetic of inner layers; weights, logits and sums stay in float32.
POLICIES = {"f32": "float32", "f16": "mixed_float16", "bf16": "mixed_bfloat16"}
_INSTALL = {
    "tensorflow": "TensorFlow is not installed: install the extra poxvisio[train], or use the image for GPUs.",
    "torch": "PyTorch is not installed: install the extra poxvisio[torch].",
}


def keras_on(backend: Literal["tensorflow", "torch"]) -> Any:
    """Keras, computing with this library.

    Raises EngineRefused where Keras already runs on another one in this process, or where either is not installed.
    """
    keras: Any = sys.modules.get("keras")
    if keras is None:
        if any(importlib.util.find_spec(package) is None for package in (backend, "keras")):
            raise EngineRefused(_INSTALL[backend])
        # Keras reads this variable (and a file in the home folder, which it outranks) when imported, and never again.
        os.environ["KERAS_BACKEND"] = backend
        keras = importlib.import_module("keras")
    found = keras.config.backend()
    if found != backend:
        raise EngineRefused(
            f"Keras already runs on {found} in this process and cannot change to {backend}: load one engine a process, "
            "or unset what imported Keras first."
        )
    return keras
