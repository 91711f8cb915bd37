"""Owns what is taken from a picture: the network's input, by the one resize that training shares, and its quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
_QUALITY_SIDE = 192
# Twice the side is enough for these figures: blocks of whole pixels are averaged before, which halves what they cost.
_QUALITY_GAP = 1.9


@dataclass(frozen=True)
class Quality:
    """How fit a photo is to be judged.

    blur: variance of the Laplacian of the grey picture (0-255), low where nothing is sharp; exposure: mean grey,
    0 black to 1 white; size: shorter side of the original in pixels; flat: standard deviation of the coarse grey
    picture (0-255), low where a frame shows nothing.
    """

    blur: float
    exposure: float
    size: int
    flat: float

    def as_dict(self) -> dict[str, float]:
        """The four figures by name."""
        return {"blur": self.blur, "exposure": self.exposure, "size": self.size, "flat": self.flat}


def network_input(picture: Image.Image) -> NDArray[np.uint8]:
    """The whole picture squashed to RGB [224, 224, 3].

    Nothing is cropped, so that nothing the photographer framed is lost. Without antialias the probability of a
    phone photo moves by up to a half, hence Pillow's area-aware filter and never a plain bilinear one.
    """
    colour = picture if picture.mode == "RGB" else picture.convert("RGB")
    square = colour.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(square, dtype=np.uint8)


def measure_quality(picture: Image.Image, *, shorter_side: int) -> Quality:
    """Quality of a decoded picture whose original had `shorter_side` pixels.

    Measured on a grey picture of fixed size, so that a scaled decode and a full one agree.
    """
    grey = picture.convert("L")
    small = grey.resize((_QUALITY_SIDE, _QUALITY_SIDE), Image.Resampling.BICUBIC, reducing_gap=_QUALITY_GAP)
    # In whole numbers as far as they go: half the time, and the same figures to the last digit.
    levels = np.asarray(small, dtype=np.int16)
    laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1]
    laplacian += levels[1:-1, :-2]
    laplacian += levels[1:-1, 2:]
    laplacian -= 4 * levels[1:-1, 1:-1]
    # Blocks of 8, so that sensor noise is no content.
    blocks = levels.reshape(24, 8, _QUALITY_SIDE).sum(axis=1, dtype=np.int32).reshape(24, 24, 8).sum(axis=2)
    coarse = blocks / 64.0
    return Quality(
        blur=round(float(laplacian.astype(np.float64).var()), 3),
        exposure=round(int(blocks.sum()) / levels.size / 255.0, 4),
        size=int(shorter_side),
        flat=round(float(coarse.std()), 3),
    )
