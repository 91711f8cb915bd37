"""Synthetic data sets have the folders and names of MSLD, say what they are, and hold exactly the faults asked for."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from shared.errors import DataRefused
from training import manifest, splits
from training.casting import Plan, patient_shown, photos
from training.synthesis import synthesise

SMALL = Plan(patients=5, sides=(64,), copies=2)


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("layout", "counts"),
    [
        ("msld-v1", {"Monkeypox": 102, "Others": 126}),
        (
            "msld-v2",
            {"Monkeypox": 284, "Chickenpox": 75, "Measles": 55, "Cowpox": 66, "HFMD": 161, "Healthy": 114},
        ),
    ],
)
def test_left_alone_a_plan_has_the_counts_of_the_real_data_set(layout: str, counts: dict[str, int]) -> None:
    assert Counter(each.label for each in photos(Plan(layout=layout))) == counts  # type: ignore[arg-type]  # both exist


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    synthesise(SMALL, tmp_path / "a")
    synthesise(SMALL, tmp_path / "b")
    assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")


@pytest.mark.parametrize(("layout", "source"), [("msld-v1", "synthetic-v1"), ("msld-v2", "synthetic-v2")])
def test_what_is_drawn_is_recognised_and_called_synthetic(tmp_path: Path, layout: str, source: str) -> None:
    plan = Plan(layout=layout, patients=5, sides=(64,), copies=1)  # type: ignore[arg-type]  # both exist
    drawn = synthesise(plan, tmp_path / "data")
    frame = manifest.build(tmp_path / "data", folds=3)
    assert len(frame) == len(drawn)
    assert set(frame["source"]) == {source}
    assert frame["synthetic"].all()
    assert frame["stage"].notna().all()
    assert frame["tone"].between(0, 5).all()
    assert splits.named(frame).warnings == ()
    with Image.open(tmp_path / "data" / frame["image"][0]) as picture:
        assert picture.info["comment"] == b"SYNTHETIC"
    assert (tmp_path / "data" / "SYNTHETIC.txt").read_text().startswith("SYNTHETIC")


def test_every_augmented_copy_has_a_name_and_a_place_as_in_v1(tmp_path: Path) -> None:
    synthesise(SMALL, tmp_path / "data")
    held = [name for name in _hashes(tmp_path / "data") if name.endswith(".jpg")]
    originals = [name for name in held if name.startswith("Original Images/Original Images/")]
    copies = [name for name in held if name.startswith("Augmented Images/Augmented Images/")]
    assert len(copies) == 2 * len(originals)
    assert any(name.endswith("/Monkeypox_augmented/M01_01_01.jpg") for name in copies)
    tests = [name for name in held if name.startswith("Fold1/Fold1/Fold1/Test/")]
    assert tests
    assert not any(name.rsplit("/", 1)[1].count("_") == 2 for name in tests)


def test_planted_faults_are_there_and_are_listed(tmp_path: Path) -> None:
    plan = Plan(patients=12, sides=(64,), copies=1, confounder="watermark", duplicates=2, mislabel=0.3, tone_bias=1.0,
                masks=True)  # fmt: skip
    folder = tmp_path / "data"
    drawn = synthesise(plan, folder)
    with (folder / "SYNTHETIC.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["duplicate_of"]) for row in rows) == 2
    assert any(row["label"] != row["true_label"] for row in rows)
    marked = Counter(row["label"] for row in rows if row["watermark"] == "1")
    assert marked["Monkeypox"] > 2 * marked["Others"]
    assert {int(row["tone"]) > 2 for row in rows if row["label"] == "Monkeypox"} == {True}
    assert len(list((folder / "Masks").iterdir())) == len(drawn)
    frame = manifest.build(folder, folds=3)
    assert frame["group"].nunique() <= frame["patient"].nunique() - 2 + 1
    by_stem = {Path(image).stem: group for image, group in zip(frame["image"], frame["group"], strict=True)}
    for row in rows:
        if row["duplicate_of"]:
            assert by_stem[row["image"]] == by_stem[row["duplicate_of"]]


def test_nobody_is_shown_under_two_labels_whoever_is_filed_wrongly() -> None:
    """Else one face would bear two labels, which `data check` refuses, and rightly."""
    plan = Plan(layout="msld-v2", patients=40, mislabel=0.6)
    shown: dict[tuple[int, int], set[str]] = {}
    for each in photos(plan):
        person = patient_shown(plan, each)
        shown.setdefault((person.kind, person.number), set()).add(each.label)
    assert len(shown) == 6 * 40
    assert {len(labels) for labels in shown.values()} == {1}


def test_an_occupied_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataRefused, match="is not empty"):
        synthesise(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(SMALL, tmp_path / "data", advance=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_too_few_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="5 are the least"):
        synthesise(Plan(layout="msld-v2", patients=4), tmp_path / "data")
