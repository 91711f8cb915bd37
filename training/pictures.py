"""Owns the reading of training photos: the one resize that serving uses, the quality, and each file's picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shared.errors import DataRefused
from training.layouts import MASKS
from worker.inference.preprocess import SIDE, Quality, measure_quality, network_input

_THREADS: Final = 2
_MIDDLE: Final = 127


def opened(path: Path) -> Image.Image:
    """The picture of a file, upright and in RGB. Raises DataRefused where it cannot be read."""
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataRefused(f"{path} cannot be read: {error}; put the file back or build the manifest anew") from error


def look(path: Path) -> tuple[NDArray[np.uint8], Quality]:
    """What the network sees of a file [224, 224, 3], and its quality."""
    picture = opened(path)
    return network_input(picture), measure_quality(picture, shorter_side=min(picture.size))


def masks_of(folder: Path, images: Sequence[str]) -> NDArray[np.bool_] | None:
    """Where the lesions are [n, 224, 224], from the masks that a drawn data set has beside its photos; else None."""
    files = [folder / MASKS / f"{Path(image).stem}.png" for image in images]
    if not all(file.is_file() for file in files):
        return None
    masks = [opened(file).convert("L").resize((SIDE, SIDE), Image.Resampling.NEAREST) for file in files]
    return np.stack([np.asarray(mask) > _MIDDLE for mask in masks])


def resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Photos [n, 224, 224, 3] at another side; the very same array at 224."""
    if pixels.shape[1] == side:
        return pixels
    small = [Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC) for photo in pixels]
    return np.stack([np.asarray(photo, dtype=np.uint8) for photo in small])


def look_at_all(
    folder: Path, images: Sequence[str], *, advance: Callable[[int], None] = lambda _: None
) -> tuple[NDArray[np.uint8], list[Quality]]:
    """What the network sees of the files [n, 224, 224, 3], and their qualities; `advance` is told how many are read."""
    seen, qualities = [], []
    with ThreadPoolExecutor(_THREADS) as readers:
        for number, (pixels, quality) in enumerate(readers.map(lambda name: look(folder / name), images), start=1):
            seen.append(pixels)
            qualities.append(quality)
            advance(number)
    return np.stack(seen), qualities
