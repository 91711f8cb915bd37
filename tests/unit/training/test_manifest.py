"""A manifest names every original once, is the same on every run, and is refused when it was touched."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from pyarrow import parquet

from shared.errors import DataRefused
from tests.unit.training.folders import V1_CLASSES, V2_CLASSES, first, picture, put, second
from training import manifest, manifest_form
from training.casting import Plan
from training.synthesis import synthesise


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    folder = tmp_path / "v1"
    first(folder)
    return folder


def test_every_original_of_v1_is_there_once_and_no_augmented_copy(v1: Path) -> None:
    frame = manifest.build(v1, folds=3)
    assert len(frame) == 24
    assert list(frame.columns) == list(manifest_form.COLUMNS)
    assert set(frame["label"]) == set(V1_CLASSES)
    assert not frame["image"].str.contains("Augmented").any()
    assert frame["image"].str.startswith("Original Images/Original Images/Monkey Pox/M").sum() == 12
    assert set(frame["source"]) == {"msld-v1"}
    assert not frame["synthetic"].any()
    assert frame["patient"].nunique() == 12


def test_fold1_is_the_named_split_of_v1_though_it_holds_augmented_copies_alone(v1: Path) -> None:
    frame = manifest.build(v1, folds=3).set_index("image")
    split = {name.rsplit("/", 1)[1][:-4]: split for name, split in frame["named_split"].items()}
    assert split["M01_01"] == split["NM01_02"] == "test"
    assert split["M02_01"] == "val"
    assert split["M06_02"] == split["NM03_01"] == "train"


def test_every_photo_of_v2_is_there_once_whatever_folds_hold_it(tmp_path: Path) -> None:
    second(tmp_path)
    frame = manifest.build(tmp_path, named="fold2")
    assert len(frame) == 30
    assert set(frame["label"]) == set(V2_CLASSES)
    assert frame["patient"].nunique() == 30
    where = frame.set_index("patient")["named_split"]
    assert where["MKP_02"] == "test"
    assert where["HFMD_03"] == "val"
    assert where["HEALTHY_01"] == "train"
    assert (frame["source"] == "msld-v2").all()


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_two_builds_are_equal_and_what_is_written_is_read_back(v1: Path, tmp_path: Path, name: str) -> None:
    frame = manifest.build(v1, folds=3)
    assert frame.equals(manifest.build(v1, folds=3))
    file = tmp_path / name
    manifest.write(frame, file)
    assert manifest.read(file, folder=v1).equals(frame)
    assert not list(tmp_path.glob(".*.part"))
    told = manifest.describe(frame)
    assert (told.images, told.patients, told.folds) == (24, 12, 3)
    assert told.patients_per_class == {"Monkeypox": 6, "Others": 6}
    assert told == manifest.describe(manifest.read(file))


def test_a_manifest_changed_by_hand_is_refused(v1: Path, tmp_path: Path) -> None:
    file = tmp_path / "manifest.csv"
    manifest.write(manifest.build(v1, folds=3), file)
    file.write_text(file.read_text().replace(",Others,", ",Monkeypox,", 1))
    with pytest.raises(DataRefused, match="changed since it was written"):
        manifest.read(file)
    file.write_text("image,label\n")
    with pytest.raises(DataRefused, match="is no manifest"):
        manifest.read(file)
    with pytest.raises(DataRefused, match="there is no manifest"):
        manifest.read(tmp_path / "absent.csv")


def test_a_manifest_in_parquet_is_one_table_for_pandas_and_has_the_digest_of_the_same_rows_in_csv(
    tmp_path: Path,
) -> None:
    synthesise(Plan(layout="msld-v1", patients=3, copies=0, sides=(48,)), tmp_path / "drawn")
    frame = manifest.build(tmp_path / "drawn", folds=3)
    files = [tmp_path / name for name in manifest_form.NAMES]
    for file in files:
        manifest.write(frame, file)
    assert pd.read_parquet(files[0]).equals(frame)
    assert {"stage", "tone"} <= set(frame), "numbers are the same in both"
    assert manifest_form.as_csv(files[0]) == manifest_form.as_csv(files[1]) == files[1].read_bytes()
    assert manifest.describe(manifest.read(files[0])) == manifest.describe(frame)


def test_a_manifest_in_parquet_that_was_changed_or_is_another_table_is_refused(v1: Path, tmp_path: Path) -> None:
    file = tmp_path / "manifest.parquet"
    manifest.write(manifest.build(v1, folds=3), file)
    table = parquet.read_table(file)
    other = table.set_column(table.schema.get_field_index("label"), "label", [["Others"] * len(table)])
    parquet.write_table(other.replace_schema_metadata(table.schema.metadata), file)
    with pytest.raises(DataRefused, match="changed since it was written"):
        manifest.read(file)
    parquet.write_table(table.replace_schema_metadata({}), file)
    with pytest.raises(DataRefused, match="is no manifest"):
        manifest.read(file)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataRefused, match="cannot be read as Parquet"):
        manifest.read(file)


def test_a_photo_changed_since_is_named(v1: Path, tmp_path: Path) -> None:
    file = tmp_path / "manifest.csv"
    frame = manifest.build(v1, folds=3)
    manifest.write(frame, file)
    (v1 / frame["image"][3]).write_bytes(picture(99))
    with pytest.raises(DataRefused, match=frame["image"][3]):
        manifest.read(file, folder=v1)


def test_a_photo_under_two_patients_ties_them_into_one_group(v1: Path) -> None:
    place = v1 / "Original Images" / "Original Images" / "Others"
    with Image.open(place / "NM03_01.jpg") as original:
        original.resize((96, 96)).save(place / "NM06_09.jpg", quality=60)
    frame = manifest.build(v1, folds=3).set_index("patient")
    assert set(frame.loc["NM06", "group"]) == set(frame.loc["NM03", "group"]) == {"NM03"}
    assert frame.loc["NM06", "fold"].nunique() == 1
    assert set(frame.loc["NM06", "fold"]) == set(frame.loc["NM03", "fold"])


def test_damaged_files_are_named_all_at_once(v1: Path) -> None:
    place = v1 / "Original Images" / "Original Images" / "Others"
    (place / "NM01_01.jpg").write_bytes(b"")
    (place / "NM02_01.jpg").write_bytes((place / "NM02_01.jpg").read_bytes()[:300])
    with pytest.raises(
        DataRefused, match=r"2 photos cannot be read: .*NM01_01.jpg \(no JPEG, PNG or WEBP\).*NM02_01.jpg"
    ):
        manifest.build(v1, folds=3)


def test_one_photo_under_two_labels_is_refused(v1: Path) -> None:
    place = v1 / "Original Images" / "Original Images"
    shutil.copy(place / "Others" / "NM01_01.jpg", place / "Monkey Pox" / "M09_01.jpg")
    with pytest.raises(DataRefused, match=r"two labels: .*M09_01.jpg \(Monkeypox\), .*NM01_01.jpg \(Others\)"):
        manifest.build(v1, folds=3)


def test_a_class_of_few_patients_is_refused_with_its_name(v1: Path) -> None:
    with pytest.raises(DataRefused, match="Monkeypox has 6 independent patients, too few for 7 folds"):
        manifest.build(v1, folds=7)


def test_a_plain_folder_has_its_patients_from_folders_or_from_a_table(tmp_path: Path) -> None:
    for kind, label in enumerate(("pox", "none")):
        for number in range(4):
            put(tmp_path / label / f"p{number}" / "a.jpg", picture(kind, number))
    frame = manifest.build(tmp_path, folds=2)
    assert set(frame["source"]) == {"folder"}
    assert frame["patient"].tolist()[:2] == ["none/p0", "none/p1"]
    put(tmp_path / "pox" / "loose.jpg", picture(7))
    with pytest.raises(DataRefused, match=r"no patient is known for pox/loose.jpg: .*patients.csv"):
        manifest.build(tmp_path, folds=2)
    (tmp_path / "patients.csv").write_text("image,patient\npox/loose.jpg,none/p1\n")
    assert manifest.build(tmp_path, folds=2).set_index("image")["group"]["pox/loose.jpg"] == "none/p1"


@pytest.mark.parametrize("name", ["M01_01_00.jpg", "MKP_01_01_ORIGINAL.jpg", "HFMD_120_01_7.jpg"])
def test_an_augmented_copy_in_a_plain_folder_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path / "pox" / "p1" / "a.jpg", picture(1))
    put(tmp_path / "none" / "p2" / name, picture(2))
    with pytest.raises(DataRefused, match=f"{name} is an augmented copy"):
        manifest.build(tmp_path, folds=2)
