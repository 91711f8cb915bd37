"""Owns what the network sees of a picture: the one resize that training and serving share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 224


def network_input(picture: Image.Image) -> NDArray[np.uint8]:
    """The whole picture squashed to RGB [224, 224, 3].

    Nothing is cropped, so that nothing the photographer framed is lost. Without antialias the probability of a
    phone photo moves by up to a half, hence Pillow's area-aware filter and never a plain bilinear one.
    """
    square = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(square, dtype=np.uint8)
