"""Owns the photos that the demo network learns from: which patient is in which split, rendered once and kept."""

from __future__ import annotations

import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.stream import Stream
from training.synthetic import GENERATOR_VERSION, NEGATIVE, POSITIVE, jpeg, patient, render
from worker.inference.preprocess import Quality, measure_quality, network_input

SEED = 7
PHOTOS_PER_PATIENT = 2
# Patient numbers within each class; ranges that cannot overlap keep the splits disjoint by patient.
SPLITS = {
    "train": range(402),
    "validation": range(402, 486),
    "test": range(486, 588),
    "demo": range(588, 600),
}
_CAMERA_SIDES = (224, 256, 320, 448)
_CAMERA = 4


@dataclass(frozen=True)
class Photos:
    """Photos [n, 224, 224, 3] with class [n], patient key [n] and the positive's stage [n]."""

    pixels: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    patients: NDArray[np.int64]
    stages: NDArray[np.float64]
    tones: NDArray[np.int64]


def camera_side(kind: int, number: int, image: int) -> int:
    """The side in pixels at which a photo is taken; training sees several, as users' cameras differ."""
    return _CAMERA_SIDES[Stream(SEED, _CAMERA, kind, number, image).integer(0, len(_CAMERA_SIDES) - 1)]


def photograph(kind: int, number: int, image: int) -> bytes:
    """The JPEG of one photo, as it would be uploaded."""
    return jpeg(render(patient(SEED, kind, number), image, side=camera_side(kind, number, image)))


def _seen(key: tuple[int, int, int]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(photograph(*key))) as picture:
        return network_input(picture)


def quality(key: tuple[int, int, int]) -> Quality:
    """The quality of one photo (class, patient number, image), measured on its JPEG as the service would."""
    with Image.open(io.BytesIO(photograph(*key))) as picture:
        return measure_quality(picture, shorter_side=min(picture.size))


def keys(split: str) -> list[tuple[int, int, int]]:
    """(class, patient number, image) of each photo of a split."""
    return [(k, n, i) for n in SPLITS[split] for k in (POSITIVE, NEGATIVE) for i in range(PHOTOS_PER_PATIENT)]


def photos(split: str, cache: Path, *, processes: int = 2) -> Photos:
    """The photos of a split as the network sees them, rendered on the first call and read from `cache` afterwards."""
    wanted = keys(split)
    file = cache / f"{split}-{GENERATOR_VERSION}-{SEED}-{len(wanted)}.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(processes) as pool:
            rendered = np.stack(list(pool.map(_seen, wanted, chunksize=8)))
        partial = file.with_suffix(".part.npy")
        np.save(partial, rendered)
        partial.rename(file)
    who = [patient(SEED, k, n) for k, n, _ in wanted]
    return Photos(
        pixels=np.load(file),
        kinds=np.array([k for k, _, _ in wanted]),
        patients=np.array([2 * n + k for k, n, _ in wanted]),
        stages=np.array([p.stage for p in who]),
        tones=np.array([p.tone for p in who]),
    )
