"""Owns what a folder of training photos looks like: which files are originals, of whom, with which label and split.

Three layouts are known: MSLD v1.0 and v2.0 as Kaggle packs them (with folders doubled and names spelt in two ways), and
a plain folder with one folder a class. Augmented copies are never taken: a split made after augmentation leaks.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from shared.errors import DataRefused

V1: Final = "msld-v1"
V2: Final = "msld-v2"
FOLDER: Final = "folder"
SYNTHETIC_NOTE: Final = "SYNTHETIC.txt"
SYNTHETIC_TRAITS: Final = "SYNTHETIC.csv"
PATIENTS: Final = "patients.csv"
MASKS: Final = "Masks"  # of the lesions of drawn photos, beside the classes
UNKNOWN_TONE: Final = -1
CLASSES: Final = {
    V1: ("Monkeypox", "Others"),
    V2: ("Monkeypox", "Chickenpox", "Measles", "Cowpox", "HFMD", "Healthy"),
}
NAMED_FOLDS: Final = ("fold1", "fold2", "fold3", "fold4", "fold5")
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SPELLINGS: Final = {"mpox": "Monkeypox", "other": "Others"}
_SPLITS: Final = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_V1_NAME: Final = re.compile(r"(?P<patient>N?M\d+)_(?P<number>\d+)(?:_(?P<copy>\d{2}))?")
_V2_NAME: Final = re.compile(
    r"(?P<patient>(?:MKP|CHP|MSL|CWP|HFMD|HEALTHY)_\d+)_(?P<number>\d+)(?:_(?P<copy>ORIGINAL|\d{1,2}))?"
)
_SHOWN: Final = 5


@dataclass(frozen=True)
class Original:
    """One photo as it was taken: where it lies in the folder, of which patient, under which label.

    `named_split` is the data set's own split ("train", "val", "test", or "" where it names none); `stage` is NaN and
    `tone` -1 where they are not known, which is everywhere but in generated pictures.
    """

    image: str
    patient: str
    label: str
    named_split: str = ""
    stage: float = math.nan
    tone: int = UNKNOWN_TONE


@dataclass(frozen=True)
class Layout:
    """What a folder holds: its layout, its originals in the order of their paths, and how many copies were left out."""

    name: str
    originals: tuple[Original, ...]
    augmented: int
    synthetic: bool


def recognise(folder: Path, *, named: str = "fold1") -> Layout:
    """Return what the folder holds; no picture is opened. Raises `DataRefused` with what is wrong and where.

    `named` is the fold of MSLD v2.0 whose split becomes `named_split`; v1.0 has one alone.
    """
    if not folder.is_dir():
        raise DataRefused(f"{folder} is no folder: give the folder that holds the data set")
    originals_at, augmented_at = _nested(folder, "originalimages"), _nested(folder, "augmentedimages")
    augmented = sum(1 for _ in _photos(augmented_at)) if augmented_at else 0
    if originals_at is None:
        if augmented_at is not None:
            raise DataRefused(
                f"{folder} holds augmented copies and no originals: copies of one photo in two splits would make every "
                "figure a lie; give the folder with 'Original Images'"
            )
        layout = Layout(FOLDER, tuple(_plain(folder)), 0, synthetic=False)
    elif (folds_at := _nested(originals_at, "folds")) is not None:
        layout = Layout(V2, tuple(_second(folder, folds_at, named)), augmented, synthetic=False)
    else:
        layout = Layout(V1, tuple(_first(folder, originals_at)), augmented, synthetic=False)
    labels = sorted({original.label for original in layout.originals})
    if not labels:
        raise DataRefused(f"{folder} holds no photo of a layout that is known: give the folder that holds the data set")
    if len(labels) < 2:  # noqa: PLR2004 - two classes are the least there is to tell apart
        raise DataRefused(f"{folder} holds one class only ({labels[0]}): two are needed")
    return _with_traits(folder, layout)


def patient_of(stem: str) -> str | None:
    """The patient that a file name of MSLD v1.0 or v2.0 tells; None for any other name and for augmented copies."""
    match = _V1_NAME.fullmatch(stem) or _V2_NAME.fullmatch(stem)
    return None if match is None or match["copy"] is not None else match["patient"]


def is_augmented(image: str) -> bool:
    """Whether a path is that of an augmented copy, by its folders or by the endings that MSLD gives its copies."""
    path = PurePosixPath(image)
    match = _V1_NAME.fullmatch(path.stem) or _V2_NAME.fullmatch(path.stem)
    return any("augment" in part.lower() for part in path.parts[:-1]) or (
        match is not None and match["copy"] is not None
    )


def spelt(name: str) -> str:
    """The one spelling of a class of MSLD: `Monkey Pox` and `Monkeypox_augmented` are `Monkeypox`; others stay."""
    bare = _bare(name).removesuffix("augmented")
    known = {_bare(label): label for labels in CLASSES.values() for label in labels} | _SPELLINGS
    return known.get(bare, name)


def listed(names: Iterable[str]) -> str:
    """The first few names in one line, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _first(folder: Path, originals_at: Path) -> Iterator[Original]:
    """MSLD v1.0: a folder a class, and Fold1, whose train and val hold augmented copies of known originals."""
    named = _named_of_first(folder)
    for label, place in _class_folders(originals_at, V1):
        for image in _photos(place):
            match = _V1_NAME.fullmatch(image.stem)
            if match is None or match["copy"] is not None:
                raise _misnamed(folder, image, "M01_01.jpg or NM01_01.jpg")
            yield Original(
                _relative(folder, image), match["patient"], label, named.get((match["patient"], match["number"]), "")
            )


def _named_of_first(folder: Path) -> dict[tuple[str, str], str]:
    place = _nested(folder, "fold1")
    found: dict[tuple[str, str], str] = {}
    for split_at in _folders(place) if place else ():
        split = _SPLITS.get(_bare(split_at.name))
        for image in _photos(split_at) if split else ():
            match = _V1_NAME.fullmatch(image.stem)
            if match is None:
                raise _misnamed(folder, image, "M01_01.jpg or M01_01_00.jpg")
            key = (match["patient"], match["number"])
            if found.setdefault(key, str(split)) != split:
                raise DataRefused(
                    f"Fold1 holds {match['patient']}_{match['number']} in {found[key]} and in {split}: "
                    "the folder is not as its authors packed it; fetch it anew"
                )
    return found


def _second(folder: Path, folds_at: Path, named: str) -> Iterator[Original]:
    """MSLD v2.0: every photo once in each of five folds; the first fold that holds one says where it lies."""
    if named not in NAMED_FOLDS:
        raise DataRefused(f"MSLD v2.0 has no {named}: {', '.join(NAMED_FOLDS)}")
    seen: dict[str, Original] = {}
    for fold_at in _folders(folds_at):
        for split_at in _folders(fold_at):
            split = _SPLITS.get(_bare(split_at.name))
            for label, place in _class_folders(split_at, V2) if split else ():
                for image in _photos(place):
                    match = _V2_NAME.fullmatch(image.stem)
                    if match is None or match["copy"] is not None:
                        raise _misnamed(folder, image, "MKP_17_01.jpg")
                    is_named = _bare(fold_at.name) == named
                    before = seen.get(image.stem)
                    if before is None:
                        before = Original(_relative(folder, image), match["patient"], label)
                    elif before.label != label:
                        raise DataRefused(f"{image.stem} is {before.label} in one fold and {label} in {fold_at.name}")
                    if is_named and before.named_split not in ("", split):
                        raise DataRefused(f"{named} holds {image.stem} in {before.named_split} and in {split}")
                    seen[image.stem] = replace(before, named_split=str(split)) if is_named else before
    yield from sorted(seen.values(), key=lambda original: original.image)


def _plain(folder: Path) -> Iterator[Original]:
    """A folder a class; patients from `patients.csv`, from a folder each, or from names as MSLD's."""
    known = _patients(folder)
    nameless: list[str] = []
    for place in (child for child in _folders(folder) if child.name != MASKS):
        for image in _photos(place):
            relative = _relative(folder, image)
            if is_augmented(relative):
                raise DataRefused(
                    f"{relative} is an augmented copy: only photos as they were taken may be split, "
                    "copies of one photo in two splits would make every figure a lie"
                )
            within = image.relative_to(place).parts
            patient = known.get(relative) or (f"{place.name}/{within[0]}" if len(within) > 1 else None)
            patient = patient or patient_of(image.stem)
            if patient is None:
                nameless.append(relative)
                continue
            yield Original(relative, patient, spelt(place.name))
    if nameless:
        raise DataRefused(
            f"no patient is known for {listed(nameless)}: put the photos of each patient into a folder of their own "
            f"(CLASS/PATIENT/photo.jpg), or write {PATIENTS} with the columns image,patient"
        )


def _patients(folder: Path) -> dict[str, str]:
    path = folder / PATIENTS
    if not path.is_file():
        return {}
    rows = _rows(path, ("image", "patient"))
    return {PurePosixPath(row["image"]).as_posix(): row["patient"] for row in rows if row["patient"]}


def _with_traits(folder: Path, layout: Layout) -> Layout:
    """Generated pictures say so in a note beside them, and what was drawn in a table."""
    if not (folder / SYNTHETIC_NOTE).exists():
        return layout
    path = folder / SYNTHETIC_TRAITS
    if not path.is_file():
        return replace(layout, synthetic=True)
    drawn = {row["image"]: row for row in _rows(path, ("image", "stage", "tone"))}

    def known(original: Original) -> Original:
        row: Mapping[str, str] | None = drawn.get(PurePosixPath(original.image).stem)
        try:
            return original if row is None else replace(original, stage=float(row["stage"]), tone=int(row["tone"]))
        except ValueError as error:
            raise DataRefused(f"{path} holds no number where stage or tone of {original.image} should be") from error

    return replace(layout, synthetic=True, originals=tuple(map(known, layout.originals)))


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataRefused(f"{path} cannot be read as a table: {error}") from error
    missing = [name for name in columns if any(row.get(name) is None for row in rows)]
    if missing:
        raise DataRefused(f"{path} lacks the column {missing[0]}: it needs {','.join(columns)}")
    return rows


def _class_folders(place: Path, layout: str) -> Iterator[tuple[str, Path]]:
    found = {spelt(child.name): child for child in _folders(place)}
    missing = [label for label in CLASSES[layout] if label not in found]
    if missing:
        raise DataRefused(
            f"{place} lacks the class folder{'s' * (len(missing) > 1)} {', '.join(missing)}: the data set has "
            f"{', '.join(CLASSES[layout])}; fetch it anew, or put back what was moved"
        )
    return ((label, found[label]) for label in CLASSES[layout])


def _nested(folder: Path, name: str) -> Path | None:
    """The folder of that name below, as deep as it repeats itself: Kaggle packs `Fold1/Fold1/Fold1`."""
    found = None
    while inner := next((child for child in _folders(found or folder) if _bare(child.name).startswith(name)), None):
        found = inner
    return found


def _folders(place: Path) -> list[Path]:
    return sorted(c for c in place.iterdir() if c.is_dir() and not c.name.startswith((".", "__MACOSX")))


def _photos(place: Path) -> Iterator[Path]:
    return (
        path
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _relative(folder: Path, image: Path) -> str:
    return image.relative_to(folder).as_posix()


def _misnamed(folder: Path, image: Path, expected: str) -> DataRefused:
    return DataRefused(
        f"{_relative(folder, image)} is not named as the data set names its photos ({expected}): "
        "the name tells the patient, without whom no split can be trusted"
    )
