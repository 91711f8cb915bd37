"""Owns the picture of an answer's evidence: a transparent layer to lay over the photo."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

CELLS = 7
MOST_PIXELS = 4096 * 4096
# Orange for the positive label and blue against it: told apart by people with any common colour blindness.
_FOR, _AGAINST = (230, 97, 0), (26, 133, 255)
_STRONGEST_ALPHA = 176
# Evidence is in logits; a map whose strongest cell is weaker than this stays faint instead of being stretched.
_FULL_STRENGTH = 4.0


def heatmap_png(evidence: Sequence[float], width: int, height: int) -> bytes:
    """A PNG (RGBA, width x height pixels) of the 7x7 evidence, rows first, for the positive label.

    Colour tells the direction and alpha the strength, upsampled smoothly; nothing of the photo itself is needed.
    Raises ValueError unless there are 49 finite numbers and a size from 1 pixel to 4096 squared.
    """
    cells = np.asarray(evidence, dtype=np.float32)
    if cells.shape != (CELLS * CELLS,) or not np.isfinite(cells).all():
        raise ValueError("evidence must be 49 finite numbers")
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise ValueError("a heat map has from 1 pixel to 4096 x 4096 pixels")
    coarse = Image.fromarray(cells.reshape(CELLS, CELLS))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    strength = np.clip(np.abs(smooth) / max(float(np.abs(cells).max()), _FULL_STRENGTH), 0.0, 1.0)
    layer = np.empty((height, width, 4), dtype=np.uint8)
    layer[..., :3] = np.where((smooth > 0.0)[..., None], np.array(_FOR, np.uint8), np.array(_AGAINST, np.uint8))
    layer[..., 3] = np.rint(strength * _STRONGEST_ALPHA)
    out = io.BytesIO()
    Image.fromarray(layer, "RGBA").save(out, "PNG", compress_level=6)
    return out.getvalue()
