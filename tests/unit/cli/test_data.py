"""``poxvisio data`` draws, sums up and refuses, each with its exit code."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from training import manifest


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "data"
    done = run("synth", folder, "--patients", 6, "--side", 64, "--copies", 1, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["synthetic"] is True
    return folder


def test_check_sums_up_and_writes_the_manifest(drawn: Path, tmp_path: Path) -> None:
    file = tmp_path / "manifest.csv"
    done = run("check", drawn, "--folds", 3, "--manifest", file, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    frame = manifest.read(file, folder=drawn)
    assert told["images"] == len(frame)
    assert told["patients"] == 12
    assert told["digest"] == manifest.describe(frame).digest
    assert sum(sum(fold.values()) for fold in told["images_per_fold"].values()) == len(frame)
    assert told["near_duplicates_across_patients"] == 0


def test_check_calls_synthetic_data_synthetic(drawn: Path) -> None:
    done = run("check", drawn, "--folds", 3)
    assert done.exit_code == 0
    assert done.stdout.startswith("SYNTHETIC, msld-v1")
    assert "Research use only" in done.stderr


def test_unreadable_files_are_listed_and_end_with_one(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(drawn, folder)
    (folder / "Original Images" / "Original Images" / "Others" / "NM01_01.jpg").write_bytes(b"no photo")
    done = run("check", folder, "--json")
    assert done.exit_code == 1
    [line] = json.loads(done.stdout)["unreadable"]
    assert "NM01_01.jpg" in line


def test_wrong_folders_end_with_two_and_say_what_to_do(drawn: Path, tmp_path: Path) -> None:
    absent = run("check", tmp_path / "absent")
    assert (absent.exit_code, absent.stderr.count("\n")) == (2, 1)
    assert "holds no photo" in run("check", tmp_path).stderr
    (tmp_path / "one" / "Measles" / "p1").mkdir(parents=True)
    (tmp_path / "one" / "Measles" / "p1" / "a.jpg").touch()
    assert "one class only (Measles)" in run("check", tmp_path / "one").stderr
    folder = tmp_path / "data"
    shutil.copytree(drawn, folder)
    shutil.rmtree(folder / "Original Images" / "Original Images" / "Others")
    missing = run("check", folder)
    assert missing.exit_code == 2
    assert "lacks the class folder Others" in missing.stderr
    shutil.rmtree(folder / "Original Images")
    assert "augmented copies and no originals" in run("check", folder).stderr


def test_synth_leaves_an_occupied_folder_alone(drawn: Path) -> None:
    before = sorted(drawn.rglob("*"))
    done = run("synth", drawn, "--patients", 6)
    assert done.exit_code == 2
    assert "is not empty" in done.stderr
    assert sorted(drawn.rglob("*")) == before


@pytest.mark.parametrize("place", ["file/new", "file/deeper/new", "full"])
def test_a_place_that_cannot_be_written_to_is_refused_and_left_as_it_was(
    drawn: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    before = sorted(tmp_path.rglob("*"))
    for command in (("synth", tmp_path / place, "--patients", 5), ("check", drawn, "--manifest", tmp_path / place)):
        done = run(*command)
        assert done.exit_code == 2, done.output
        assert done.stderr.count("poxvisio: ") == 1
        assert place.partition("/")[0] in done.stderr
        assert sorted(tmp_path.rglob("*")) == before
