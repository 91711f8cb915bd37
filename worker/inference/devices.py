"""Owns the look for a GPU that a library can compute on, and what such a GPU is good at."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Literal

from shared.errors import EngineRefused

_LOOKS = {
    "tensorflow": "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))",
    "torch": "import torch; print(torch.cuda.device_count())",
}
# NVIDIA's compute capability from which tensor cores take a type.
_HALVES = (("f16", (7, 0)), ("bf16", (8, 0)))
_PATIENCE_SECONDS = 90.0


def gpu_seen_by(library: Literal["tensorflow", "torch"]) -> bool:
    """Whether this machine has an NVIDIA GPU and the library, if it is installed, sees it.

    Looked for in a process of its own (seconds, and only where there is a GPU): importing TensorFlow binds Keras to it
    for good, and takes half a gigabyte of a process that may choose another engine. Raises EngineRefused where the
    library does not start.
    """
    if not Path("/dev/nvidiactl").exists() or importlib.util.find_spec(library) is None:
        return False
    look = [sys.executable, "-c", _LOOKS[library]]
    try:
        said = subprocess.run(look, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineRefused(
            f"{library} is installed but does not start ({type(error).__name__}): mend it, or name an engine in "
            "POXVISIO_ENGINE."
        ) from error
    return int(said.split()[-1]) > 0


def tensor_core_halves(capability: tuple[int, int]) -> tuple[str, ...]:
    """The half precisions in which a GPU of this compute capability is faster than in float32, the finer first."""
    return tuple(name for name, least in _HALVES if capability >= least)
