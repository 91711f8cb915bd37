"""Owns what every engine of the network must offer, whatever library computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

OUTPUTS = ("logits", "evidence", "features")


@dataclass(frozen=True)
class Outputs:
    """What the network says about n photos.

    logits [n, classes], uncalibrated; evidence [n, 7, 7], in logits for the first label against the others, whose
    mean is the difference of the logits; features [n, 2048], the pooled last feature map.
    """

    logits: NDArray[np.float32]
    evidence: NDArray[np.float32]
    features: NDArray[np.float32]


class Engine(Protocol):
    """A compiled network. Each photo's outputs must not depend on the photos beside it."""

    @property
    def name(self) -> str:
        """The library that computes: "openvino", "tensorflow" or "torch"."""
        ...

    @property
    def precision(self) -> str:
        """Arithmetic of the inner layers: "f32", "f16" or "bf16"."""
        ...

    @property
    def measured(self) -> Mapping[str, object]:
        """What was measured on the device when the engine was built, for the parity record; empty on a CPU."""
        ...

    @property
    def first_met(self) -> Sequence[int]:
        """Sizes of batch that the parity check puts in besides the whole reference: each is compiled apart."""
        ...

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of RGB photos [n, 224, 224, 3], n >= 1."""
        ...
