"""``poxvisio train`` refuses what it cannot learn from in one line, before it loads TensorFlow or writes anything."""

import hashlib
import json
import os
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


REFUSED = [
    ("{tmp}/absent", "{photos}/manifest.csv", "there is no folder"),
    ("{photos}", "{tmp}/absent.csv", "`poxvisio data check FOLDER --manifest"),
    ("{photos}", "{tmp}/torn.csv", "patients in two folds"),
    ("{tmp}", "{photos}/manifest.csv", "photos are missing or others"),
]
# One program for all of them: it loads what a training begins with, which is most of its time.
PROGRAM = """
import json, sys
from click.testing import CliRunner
from cli.main import main
asked = [["train", "--config", f"{name}.toml", "--out", f"run{name}"] for name in sys.argv[1:]]
ended = [CliRunner().invoke(main, each) for each in asked]
loaded = [name for name in ("tensorflow", "keras") if name in sys.modules]
print(json.dumps({"ended": [[each.exit_code, each.stderr] for each in ended], "loaded": loaded}))
"""


def test_photos_that_cannot_be_learnt_from_end_with_2_and_leave_nothing(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.csv").write_text(torn(photos))
    places = {"tmp": tmp_path, "photos": photos}
    for number, (folder, manifest, _) in enumerate(REFUSED):
        text = CONFIG.format(folder=folder.format(**places), manifest=manifest.format(**places))
        (tmp_path / f"{number}.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, *map(str, range(len(REFUSED)))]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["loaded"] == []
    for (_, _, told), (code, said) in zip(REFUSED, found["ended"], strict=True):
        assert code == 2, said
        [_, line] = said.splitlines()
        assert line.startswith("poxvisio: ")
        assert told in line
    assert list(tmp_path.glob("run*")) == []
