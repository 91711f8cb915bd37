"""Owns the scaling of channels between layers, which changes no answer and lets int8 round all channels as finely.

What is rounded has one step for all its channels, as wide as the largest of them needs. After a ReLU a channel may be
divided by any positive number if all that read it multiply by the same (Nagel et al. 2019, arXiv 1906.04721). So small
channels are enlarged until their steps are nearly those of large ones. That is done where errors grow most, in the
first planes and the first two stages; a stage's blocks share one scale, since they are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import EngineRefused
from worker.inference.weights import Weights, blocks

# By joint: a number for each of its channels.
Scales = Mapping[str, Sequence[float]]
_STAGES: Final = (2, 3)
# Half of the way in logarithms: enlarged channels make for larger kernels behind them, which are rounded too.
_PART: Final = 0.5
_SMALLEST: Final = 0.01
_DIGITS: Final = 3


@dataclass(frozen=True)
class Joint:
    """The convolutions that make some planes, and all that read them."""

    makers: tuple[str, ...]
    readers: tuple[str, ...]


def joints() -> dict[str, Joint]:
    """Where channels may be scaled: the first planes, the inside of each block, and what a stage's blocks hand on."""
    found = {"conv1": Joint(("conv1",), ("conv2_block1_0", "conv2_block1_1"))}
    names = [block.name for block in blocks()]
    for stage in _STAGES:
        mine = [name for name in names if name.startswith(f"conv{stage}_")]
        for name in mine:
            found |= {f"{name}_{part}": Joint((f"{name}_{part}",), (f"{name}_{part + 1}",)) for part in (1, 2)}
        ends = (f"{mine[0]}_0", *(f"{name}_3" for name in mine))
        behind = f"conv{stage + 1}_block1"
        found[f"conv{stage}"] = Joint(ends, (*(f"{name}_1" for name in mine[1:]), f"{behind}_0", f"{behind}_1"))
    return found


def scales_for(peaks: NDArray[np.float32]) -> list[float]:
    """Numbers to divide channels by, at most 1, for the largest value of each, [channels]."""
    share = np.maximum(peaks / max(float(peaks.max()), 1e-6), _SMALLEST)
    return [round(float(scale), _DIGITS) for scale in share**_PART]


def scaled(weights: Weights, scales: Scales) -> Weights:
    """The same network with each joint's channels divided by its scales. Raises EngineRefused for what does not fit."""
    if not scales:
        return weights
    new, known = dict(weights), joints()
    for name, numbers in scales.items():
        by = np.array(numbers, dtype=np.float32)
        if name not in known or by.shape != new[f"{known[name].makers[0]}_bn/gamma"].shape:
            raise EngineRefused(f"the network has no {name} of {by.size} channels: quantise the bundle again.")
        for maker in known[name].makers:
            for part in ("gamma", "beta"):
                new[f"{maker}_bn/{part}"] = new[f"{maker}_bn/{part}"] / by
        for reader in known[name].readers:
            new[f"{reader}_conv/kernel"] = new[f"{reader}_conv/kernel"] * by[:, None]
    return new
