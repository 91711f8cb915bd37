"""No patient and no near-duplicate crosses a split, and the refusal says who would have."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from shared.errors import DataRefused
from tests.unit.training.folders import first
from training import manifest, splits


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("v1")
    first(folder)
    return manifest.build(folder, folds=3)


def test_folds_keep_groups_whole_and_classes_even() -> None:
    draws = np.random.default_rng(3)
    groups = pd.Series(draws.integers(0, 60, 240)).astype(str)
    labels = pd.Series(np.where(groups.astype(int) % 2, "pox", "none"))
    found = splits.assign(labels, groups, folds=5)
    assert pd.Series(found).groupby(groups).nunique().max() == 1
    counts = pd.crosstab(labels, found)
    assert counts.shape == (2, 5)
    assert counts.to_numpy().min() >= 14


def test_a_fold_gives_disjoint_patients_for_training_calibration_and_measuring(built: pd.DataFrame) -> None:
    split = splits.fold(built, 0)
    parts = [set(built["group"].iloc[rows]) for rows in (split.train, split.validation, split.test)]
    assert all(parts)
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert len(split.train) + len(split.validation) + len(split.test) == len(built)


@pytest.mark.parametrize("number", [-1, 3])
def test_a_fold_that_is_not_there_is_refused(built: pd.DataFrame, number: int) -> None:
    with pytest.raises(DataRefused, match=f"fold {number} of 3"):
        splits.fold(built, number)


def test_a_patient_in_two_folds_is_refused_by_name(built: pd.DataFrame) -> None:
    torn = built.copy()
    row = torn.index[torn["patient"] == "NM04"][0]
    torn.loc[row, "fold"] = (torn.loc[row, "fold"] + 1) % 3
    with pytest.raises(DataRefused, match="patients in two folds: NM04"):
        splits.check(torn)


def test_a_near_duplicate_in_another_fold_is_refused_even_where_the_groups_hide_it(built: pd.DataFrame) -> None:
    torn = built.copy()
    one = torn.index[torn["fold"] == 0][0]
    other = torn.index[torn["fold"] == 1][0]
    torn.loc[other, "phash"] = f"{int(torn.loc[one, 'phash'], 16) ^ 0b1111:016x}"
    with pytest.raises(DataRefused, match="1 pairs of near-duplicates are in two folds") as refused:
        splits.check(torn)
    assert torn.loc[one, "image"] in str(refused.value)


def test_a_patient_in_two_groups_is_refused(built: pd.DataFrame) -> None:
    torn = built.copy()
    torn.loc[torn.index[torn["patient"] == "M03"][0], "group"] = "another"
    with pytest.raises(DataRefused, match="M03"):
        splits.check(torn)


def test_the_authors_own_split_is_there_by_name(built: pd.DataFrame) -> None:
    split = splits.named(built)
    assert set(built["patient"].iloc[split.test]) == {"M01", "NM01"}
    assert set(built["patient"].iloc[split.validation]) == {"M02", "NM02"}
    assert split.warnings == ()


def test_the_authors_own_split_says_so_where_it_leaks(tmp_path: Path) -> None:
    first(tmp_path)
    place = tmp_path / "Original Images" / "Original Images" / "Others"
    with Image.open(place / "NM01_01.jpg") as original:
        original.resize((64, 64)).save(place / "NM05_01.jpg", quality=70)
    frame = manifest.build(tmp_path, folds=3)
    [warning] = splits.named(frame).warnings
    assert "leaks: 1 pairs" in warning
    assert "NM01_01.jpg and " in warning
    assert "NM05_01.jpg" in warning


def test_a_patient_on_two_sides_of_the_authors_split_is_refused(built: pd.DataFrame) -> None:
    torn = built.copy()
    torn.loc[torn.index[torn["patient"] == "M01"][0], "named_split"] = "train"
    with pytest.raises(DataRefused, match="two sides: M01"):
        splits.named(torn)


def test_a_data_set_without_a_split_of_its_own_has_none(built: pd.DataFrame) -> None:
    with pytest.raises(DataRefused, match="no photos in train, val, test"):
        splits.named(built.assign(named_split=""))
