"""Owns the manifest: one row for each original photo of a data set, with all that a split or a report must know of it.

How it lies on a disk is `training/manifest_form.py`'s: with a checksum, so that one edited by hand is noticed.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.errors import DataRefused
from training import splits
from training.landing import replace_file, telling_of_the_disk
from training.layouts import FOLDER, UNKNOWN_TONE, Layout, Original, is_augmented, listed, recognise
from training.likeness import groups, hashes, perceptual_hash
from training.manifest_form import COLUMNS, TRAITS, digest_of, packed, unpacked

NAMED_SPLITS: Final = ("train", "val", "test", "")
SYNTHETIC_MARK: Final = b"SYNTHETIC"
_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_MOST_PIXELS: Final = 40_000_000
# What Pillow raises on damaged files, beside OSError.
_DAMAGE: Final = (
    OSError, ValueError, SyntaxError, OverflowError, RuntimeError, MemoryError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class Description:
    """A manifest in a few figures, for cards and reports. `digest` is the SHA-256 of its rows as they are written."""

    digest: str
    images: int
    patients: int
    groups: int
    folds: int
    images_per_class: dict[str, int]
    patients_per_class: dict[str, int]
    sources: tuple[str, ...]
    synthetic: bool


@dataclass(frozen=True)
class _Seen:
    """What opening one file told."""

    sha256: str
    phash: str
    synthetic: bool


def build(
    folder: Path,
    *,
    folds: int = splits.FOLDS,
    seed: int = splits.SEED,
    named: str = "fold1",
    advance: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """The manifest of a data set's folder, in the order of its paths; `advance` is told how many files are read.

    Raises `DataRefused` where the layout is none we know, a file cannot be read, one photo bears two labels, or a class
    has too few patients for the folds.
    """
    layout = recognise(folder, named=named)
    seen: list[_Seen] = []
    damaged: list[str] = []
    for number, original in enumerate(layout.originals, start=1):
        try:
            seen.append(_look(folder / original.image))
        except _DAMAGE as error:
            damaged.append(f"{original.image} ({_why(error)})")
        advance(number)
    if damaged:
        raise DataRefused(f"{len(damaged):,} photos cannot be read: {listed(damaged)}; mend, replace or remove them")
    frame = _framed(layout, seen)
    _refuse_two_labels(frame)
    frame["group"] = groups(frame["patient"].tolist(), hashes(frame["phash"].tolist()))
    frame["fold"] = splits.assign(frame["label"], frame["group"], folds=folds, seed=seed)
    splits.check(frame)
    return frame[[*COLUMNS, *(name for name in TRAITS if name in frame)]]


def unreadable(folder: Path, originals: tuple[Original, ...]) -> list[str]:
    """Which originals cannot be read, and why; one line each."""
    found = []
    for original in originals:
        try:
            _look(folder / original.image)
        except _DAMAGE as error:
            found.append(f"{original.image} ({_why(error)})")
    return found


def describe(frame: pd.DataFrame) -> Description:
    """The manifest in a few figures."""
    by_class = frame.groupby("label")
    return Description(
        digest=digest_of(frame),
        images=len(frame),
        patients=frame["patient"].nunique(),
        groups=frame["group"].nunique(),
        folds=frame["fold"].nunique(),
        images_per_class={str(label): int(count) for label, count in by_class.size().items()},
        patients_per_class={str(label): int(count) for label, count in by_class["patient"].nunique().items()},
        sources=tuple(sorted(frame["source"].unique())),
        synthetic=bool(frame["synthetic"].any()),
    )


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write the manifest under a temporary name, then put it in its place: Parquet where the name ends so, else CSV.

    Raises `DataRefused` for an unsound one.
    """
    _verify(frame)
    with telling_of_the_disk(path):
        replace_file(path, packed(frame, path))


def read(path: Path, *, folder: Path | None = None) -> pd.DataFrame:
    """The manifest in a file, verified: its checksum, its columns, and that no patient or duplicate crosses a fold.

    With `folder` every photo's SHA-256 is held against the file too. Raises `DataRefused`.
    """
    frame = unpacked(path)
    _verify(frame)
    if folder is not None:
        _compare(frame, folder)
    return frame


def _look(path: Path) -> _Seen:
    data = path.read_bytes()
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        if picture.width * picture.height > _MOST_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
        comment = picture.info.get("comment", b"")
        upright = ImageOps.exif_transpose(picture)
        synthetic = SYNTHETIC_MARK in (comment if isinstance(comment, bytes) else str(comment).encode())
        return _Seen(hashlib.sha256(data).hexdigest(), perceptual_hash(upright), synthetic)


def _framed(layout: Layout, seen: list[_Seen]) -> pd.DataFrame:
    originals = layout.originals
    synthetic = [layout.synthetic or each.synthetic for each in seen]
    frame = pd.DataFrame(
        {
            "image": [each.image for each in originals],
            "sha256": [each.sha256 for each in seen],
            "phash": [each.phash for each in seen],
            "patient": [each.patient for each in originals],
            "label": [each.label for each in originals],
            "source": [_source(layout.name, drawn) for drawn in synthetic],
            "synthetic": synthetic,
            "named_split": [each.named_split for each in originals],
        }
    )
    stages = np.array([each.stage for each in originals], dtype=np.float64)
    tones = np.array([each.tone for each in originals], dtype=np.int64)
    if not np.isnan(stages).all():
        frame["stage"] = stages
    if (tones != UNKNOWN_TONE).any():
        frame["tone"] = tones
    return frame


def _source(layout: str, synthetic: bool) -> str:
    return layout if layout == FOLDER or not synthetic else layout.replace("msld", "synthetic")


def _refuse_two_labels(frame: pd.DataFrame) -> None:
    labels = frame.groupby("sha256")["label"].nunique()
    torn = frame[frame["sha256"].isin(labels[labels > 1].index)].sort_values(["sha256", "image"])
    if len(torn):
        told = [f"{row.image} ({row.label})" for row in torn.itertuples()]
        raise DataRefused(f"the same photo bears two labels: {listed(told)}; keep it under the right one")


def _verify(frame: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise DataRefused(f"the manifest lacks the columns {', '.join(missing)}")
    if not len(frame):
        raise DataRefused("the manifest is empty")
    wrong = {
        "image twice": frame["image"][frame["image"].duplicated()],
        "sha256 of other than 64 hex digits": frame["image"][~frame["sha256"].str.fullmatch("[0-9a-f]{64}")],
        "phash of other than 16 hex digits": frame["image"][~frame["phash"].str.fullmatch("[0-9a-f]{16}")],
        "no patient": frame["image"][frame["patient"] == ""],
        "unknown named_split": frame["image"][~frame["named_split"].isin(NAMED_SPLITS)],
        "augmented copy": frame["image"][[is_augmented(name) for name in frame["image"]]],
        "fold below 0": frame["image"][frame["fold"] < 0],
    }
    for what, where in wrong.items():
        if len(where):
            raise DataRefused(f"the manifest is unsound ({what}): {listed(where.tolist())}")
    if frame["label"].nunique() < 2:  # noqa: PLR2004 - two classes are the least there is to tell apart
        raise DataRefused(f"the manifest holds one class only: {frame['label'].iloc[0]}")
    splits.check(frame)


def _compare(frame: pd.DataFrame, folder: Path) -> None:
    changed = []
    for image, digest in zip(frame["image"], frame["sha256"], strict=True):
        try:
            same = hashlib.sha256((folder / image).read_bytes()).hexdigest() == digest
        except OSError:
            same = False
        if not same:
            changed.append(image)
    if changed:
        raise DataRefused(f"{len(changed):,} photos are missing or others than the manifest says: {listed(changed)}")


def _why(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own text names an object in memory
        return f"no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
    return (str(error) or type(error).__name__).partition("\n")[0][:120]
