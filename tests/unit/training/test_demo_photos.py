"""The sample photos: patients the network never saw, and every kind of file that is no usable photo."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from shared.bundle import sha256_of
from training.demo_photos import TRUTHS

DEMO = Path(__file__).parents[3] / "models" / "demo"
SHIPPED = DEMO / "photos"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("photos")
    subprocess.run([sys.executable, "-m", "training.demo_photos", "--out", str(out)], check=True)
    return out


def test_every_file_is_listed_with_its_truth(written: Path) -> None:
    listed = json.loads((written / "photos.json").read_text(encoding="utf-8"))["photos"]
    assert {entry["file"] for entry in listed} == {path.name for path in written.glob("*.jpg")}
    truths = [entry["truth"] for entry in listed]
    assert [truths.count(truth) for truth in TRUTHS.values()] == [12, 12]
    assert truths[-4:] == ["no skin", "damaged", "not a photo", "duplicate of photo-03.jpg"]


def test_the_duplicate_is_exact_and_the_broken_files_are_broken(written: Path) -> None:
    assert (written / "photo-03-again.jpg").read_bytes() == (written / "photo-03.jpg").read_bytes()
    damaged = (written / "damaged.jpg").read_bytes()
    assert damaged.endswith(b"\xff\xd9")
    assert 2 * (len(damaged) - 2) <= len((written / "photo-11.jpg").read_bytes())
    assert (written / "notes.jpg").read_bytes().isascii()


def test_photos_have_a_side_from_224_to_640_and_fit_into_a_repository(written: Path) -> None:
    for path in written.glob("photo-*.jpg"):
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            assert picture.info["comment"] == b"SYNTHETIC"
            assert 224 <= min(picture.size) <= 640
    assert sum(path.stat().st_size for path in written.iterdir()) < 1_500_000


def test_the_shipped_photos_are_those_that_the_command_writes(written: Path) -> None:
    assert {path.name for path in SHIPPED.iterdir()} == {path.name for path in written.iterdir()}
    assert (SHIPPED / "photos.json").read_bytes() == (written / "photos.json").read_bytes()


def test_the_network_beside_them_was_made_from_the_configuration_beside_it_and_keeps_the_rules() -> None:
    card = json.loads((DEMO / "card.json").read_bytes())
    assert card["made_by"] == {"command": "poxvisio train", "configuration_sha256": sha256_of(DEMO / "train.toml")}
    assert card["metrics"]["rules_of_trust"]
    assert [rule for rule in card["metrics"]["rules_of_trust"] if not rule["passed"]] == []
    assert card["metrics"]["auroc"]["value"] >= 0.95
