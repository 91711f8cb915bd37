"""``poxvisio train`` refuses what it cannot learn from in one line, before it loads TensorFlow or writes anything."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import ROOT, main

CONFIG = """[data]
folder = "{folder}"
manifest = "{manifest}"
licence = "own"
[network]
id = "it"
weights = "scratch"
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "data"
    for command in (
        ["synth", folder, "--patients", "3", "--side", "64", "--copies", "1"],
        ["check", folder, "--folds", "3", "--manifest", folder / "manifest.csv"],
    ):
        assert CliRunner().invoke(main, ["data", *map(str, command)]).exit_code == 0
    return folder


def torn(photos: Path) -> str:
    """Return the manifest with one photo of a patient in another fold, under a checksum that holds."""
    head, _, rows = (photos / "manifest.csv").read_text().partition("\n")
    lines = [line.split(",") for line in rows.splitlines()]
    patient, fold = lines[0].index("patient"), lines[0].index("fold")
    whose = [line[patient] for line in lines]
    moved = next(line for line in lines[1:] if whose.count(line[patient]) > 1)
    moved[fold] = str((int(moved[fold]) + 1) % 3)
    rows = "".join(",".join(line) + "\n" for line in lines)
    return f"{head.partition('sha256=')[0]}sha256={hashlib.sha256(rows.encode()).hexdigest()}\n{rows}"


@pytest.mark.parametrize(
    ("folder", "manifest", "told"),
    [
        ("{tmp}/absent", "{photos}/manifest.csv", "there is no folder"),
        ("{photos}", "{tmp}/absent.csv", "`poxvisio data check FOLDER --manifest"),
        ("{photos}", "{tmp}/torn.csv", "patients in two folds"),
        ("{tmp}", "{photos}/manifest.csv", "photos are missing or others"),
    ],
)
def test_photos_that_cannot_be_learnt_from_end_with_2_and_leave_nothing(
    photos: Path, tmp_path: Path, folder: str, manifest: str, told: str
) -> None:
    (tmp_path / "torn.csv").write_text(torn(photos))
    places = {"tmp": tmp_path, "photos": photos}
    text = CONFIG.format(folder=folder.format(**places), manifest=manifest.format(**places))
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    program = (
        "import sys\nfrom cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    given = ["--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", program, "train", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    [_, line] = done.stderr.splitlines()
    assert line.startswith("poxvisio: ")
    assert told in line
    assert done.stdout.splitlines()[-1] == "[]"
    assert not (tmp_path / "run").exists()
