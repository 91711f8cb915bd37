"""Owns who learns from which photo: folds that keep patients and near-duplicates whole, and the refusal of any other.

Works on a manifest's columns (see `training/manifest.py`), whoever made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.errors import DataRefused
from training.layouts import listed
from training.likeness import LIMIT, hashes, near_duplicates

FOLDS: Final = 5
SEED: Final = 7


@dataclass(frozen=True)
class Split:
    """Rows of a manifest by number: who trains, who calibrates, who is measured; and what is to be said with it."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    warnings: tuple[str, ...] = ()


def assign(labels: pd.Series, groups: pd.Series, *, folds: int = FOLDS, seed: int = SEED) -> NDArray[np.int64]:
    """The fold (0 to folds - 1) of each photo: whole groups, every class spread as evenly as they allow.

    Raises `DataRefused` where a class has fewer independent groups than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415 - two seconds to import

    if folds < 2:  # noqa: PLR2004 - one to learn from, one to be measured on
        raise DataRefused(f"{folds} folds are no split: 2 are the least")
    independent = groups.groupby(labels).nunique()
    for label, count in independent.items():
        if count < folds:
            raise DataRefused(
                f"{label} has {count} independent patients, too few for {folds} folds: take fewer folds or more photos"
            )
    found = np.zeros(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for number, (_, held) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
        found[held] = number
    return found


def fold(frame: pd.DataFrame, number: int) -> Split:
    """Fold `number` is measured on, the next one calibrates, all others train. Checks first."""
    check(frame)
    count = int(frame["fold"].max()) + 1
    if not 0 <= number < count or count < 3:  # noqa: PLR2004 - train, validation and test
        raise DataRefused(f"fold {number} of {count}: three folds are needed, and one of them")
    where = frame["fold"].to_numpy()
    validation = where == (number + 1) % count
    test = where == number
    return Split(np.flatnonzero(~validation & ~test), np.flatnonzero(validation), np.flatnonzero(test))


def named(frame: pd.DataFrame) -> Split:
    """The data set's own split, as published, so that figures can be held against those of the paper.

    Raises `DataRefused` where it is missing or a patient is on two sides. Near-duplicates on two sides are said in
    `warnings`: the split is the authors', but a figure measured on it is too good by what leaks.
    """
    known = frame["named_split"]
    empty = [name for name in ("train", "val", "test") if not (known == name).any()]
    if empty:
        raise DataRefused(f"the data set's own split has no photos in {', '.join(empty)}: use the folds instead")
    crossing = _crossing(frame[known != ""], "patient", "named_split")
    if crossing:
        raise DataRefused(f"the data set's own split has patients on two sides: {listed(crossing)}")
    pairs = across(frame, "named_split")
    pairs = pairs[(pairs["one_side"] != "") & (pairs["other_side"] != "")]
    shown = listed(f"{one} and {other}" for one, other in zip(pairs["one"], pairs["other"], strict=True))
    leak = (
        f"the data set's own split leaks: {len(pairs):,} pairs of near-duplicates of different patients are on two "
        f"sides ({shown}); a figure measured on it is too good"
    )
    train, validation, test = (np.flatnonzero(known == name) for name in ("train", "val", "test"))
    return Split(train, validation, test, (leak,) if len(pairs) else ())


def check(frame: pd.DataFrame) -> None:
    """Raises `DataRefused`, naming patients or files, unless every patient and near-duplicate is within one fold."""
    for column, what in (("patient", "patients"), ("group", "groups of near-duplicates")):
        crossing = _crossing(frame, column, "fold")
        if crossing:
            raise DataRefused(
                f"{what} in two folds: {listed(crossing)}; "
                "what is learnt of a patient would be measured on the same patient. Build the manifest anew"
            )
    scattered = _crossing(frame, "patient", "group")
    if scattered:
        raise DataRefused(f"patients are in two groups: {listed(scattered)}; build the manifest anew")
    pairs = across(frame, "fold")
    if len(pairs):
        shown = [f"{one} and {other}" for one, other in zip(pairs["one"], pairs["other"], strict=True)]
        raise DataRefused(
            f"{len(pairs):,} pairs of near-duplicates are in two folds: {listed(shown)}; build the manifest anew"
        )


def across(frame: pd.DataFrame, column: str, *, limit: int = LIMIT) -> pd.DataFrame:
    """Pairs of near-duplicates whose values in a column differ: files `one`, `other`, and `one_side`, `other_side`."""
    pairs = near_duplicates(hashes(frame["phash"].tolist()), limit=limit)
    image, side = frame["image"].to_numpy(), frame[column].to_numpy()
    found = pd.DataFrame(
        {
            "one": image[pairs[:, 0]],
            "other": image[pairs[:, 1]],
            "one_side": side[pairs[:, 0]],
            "other_side": side[pairs[:, 1]],
        }
    )
    return found[found["one_side"] != found["other_side"]].reset_index(drop=True)


def _crossing(frame: pd.DataFrame, column: str, side: str) -> list[str]:
    sides = frame.groupby(column)[side].nunique()
    return [str(name) for name in sides[sides > 1].index]
