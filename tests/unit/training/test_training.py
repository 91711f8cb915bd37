"""A killed training goes on to the very same network; a wrong configuration is refused with every fault."""

import os
import re
import resource
import signal
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shared.errors import TrainingRefused
from training import demo_photos
from training.backbone import find_start
from training.casting import Plan, photos
from training.config import Network, read_config
from training.landing import replace_file
from training.runs import BEGUN, FACTS, FROZEN, HISTORY, MANIFEST, OPERATIONS, QUALITIES, kinds_of, load_run, save_json
from training.training_run import _claim, train

COMMAND = [sys.executable, "-m", "tests.unit.training.one_member"]
ROOT = Path(__file__).parents[3]
GOOD = '[data]\nfolder = "photos"\nlicence = "own"\n[network]\nid = "tiny"\nweights = "scratch"\n'


def final(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "final.npz") as stored:
        return [stored[name] for name in stored.files]


CURVES = ("loss", "validation_accuracy", "validation_nll")


def logged(folder: Path) -> dict[str, int]:
    """How many points each curve of the TensorBoard log has; a record is length, checksum, event, checksum."""
    found: Counter[str] = Counter()
    for file in (folder / "logs").iterdir():
        data = file.read_bytes()
        while data:
            [length] = struct.unpack_from("<Q", data)
            event, data = data[12 : 12 + length], data[16 + length :]
            # A tag is the first field of a summary's value: 0x0a, its length, its text.
            found.update(name for name in CURVES if b"\n" + bytes([len(name)]) + name.encode() in event)
            assert b"scalars" in event or b"brain.Event" in event
    return dict(found)


def test_a_run_killed_in_the_second_phase_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    processes: list[int] = []
    with subprocess.Popen(
        [*COMMAND, str(killed), str(whole)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("process "):
                assert not (killed / "final.npz").exists()
                processes.append(int(line.split()[1]))
            elif "killed tune 1/2" in line and len(processes) == 1:
                os.kill(processes[0], signal.SIGKILL)
    assert (run.returncode, len(processes)) == (0, 2)
    assert (killed / HISTORY).read_text(encoding="utf-8") == (whole / HISTORY).read_text(encoding="utf-8")
    assert all(np.array_equal(a, b) for a, b in zip(final(whole), final(killed), strict=True))
    assert logged(whole) == {"loss": 3, "validation_accuracy": 3, "validation_nll": 3}
    assert len(list((killed / "logs").iterdir())) == 2  # one of each process, which TensorBoard joins


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("scratch", "magic"), "network.weights"),
        (GOOD.replace("scratch", "file:x.h5"), "weights_sha256"),
        (GOOD.replace('licence = "own"\n', ""), "data.licence"),
        (GOOD + "[recipe]\nside = 500\n", "recipe.side"),
        (GOOD + "[recipe]\nsped = 1\n", "recipe.sped"),
        (GOOD.replace('"own"', '"own"\nsplit = "random"'), "data.split"),
        (
            GOOD.replace("scratch", "imagenet") + "[recipe]\nstages = [{ side = 96, epochs = 1, rate = 1e-3 }]\n",
            "recipe.stages are for",
        ),
        (GOOD.replace("[data]", '[data]\nclasses = ["*", "Others"]'), "stands last"),
        ("[data", "no TOML"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_place_of_its_fault(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TrainingRefused, match=told):
        read_config(path)


def test_a_full_disk_leaves_the_file_that_was_there_and_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"whole")
    # As large as the limit on files that this process sets itself: the kernel refuses what is beyond.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace_file(tmp_path / "run.json", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert (tmp_path / "run.json").read_bytes() == b"whole"


def test_the_demo_network_learns_from_no_patient_whose_photo_the_demo_sends() -> None:
    config = read_config(ROOT / "models" / "demo" / "train.toml")
    assert config.network.weights == "scratch"
    [drawn] = re.findall(r"data synth (.*)", (ROOT / "models" / "demo" / "README.md").read_text(encoding="utf-8"))
    assert config.data.folder.as_posix() in drawn
    [patients] = re.findall(r"--patients (\d+)", drawn)
    assert "--seed" not in drawn  # so it is the default, that of the samples
    assert Plan().seed == demo_photos.SEED
    numbers = {each.number for each in photos(Plan(patients=int(patients)))}
    assert max(numbers) < min(demo_photos.PATIENTS)


def test_weights_that_are_another_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    file.write_bytes(b"other")
    with pytest.raises(TrainingRefused, match="another file"):
        find_start(Network(id="tiny", weights=f"file:{file}", weights_sha256="0" * 64))


def test_labels_become_classes_and_what_is_not_named_is_refused() -> None:
    labels = ["Monkeypox", "Cowpox", "Measles"]
    assert kinds_of(labels, ["Monkeypox", "*"]).tolist() == [0, 1, 1]
    with pytest.raises(TrainingRefused, match="Cowpox, Measles"):
        kinds_of(labels, ["Monkeypox", "Others"])


def test_a_folder_that_holds_something_else_is_no_place_for_a_run(tmp_path: Path) -> None:
    """A data set above all: its manifest would be the run's."""
    source = tmp_path / "config.toml"
    source.write_text(GOOD, encoding="utf-8")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "SYNTHETIC.txt").touch()
    with pytest.raises(TrainingRefused, match="something else than a run"):
        train(read_config(source), tmp_path / "photos", source=source, resume=False)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["SYNTHETIC.txt"]


@pytest.mark.parametrize("facts", ["[]", "{}"])
def test_facts_of_something_else_are_no_run(tmp_path: Path, facts: str) -> None:
    for name in (FACTS, MANIFEST, FROZEN, QUALITIES, OPERATIONS):
        (tmp_path / name).write_text(facts)
    with pytest.raises(TrainingRefused, match="none of a run"):
        load_run(tmp_path)


def test_a_run_goes_on_with_the_weights_arithmetic_and_pictures_it_was_begun_with_or_not_at_all(tmp_path: Path) -> None:
    source, out = tmp_path / "config.toml", tmp_path / "run"
    source.write_text(GOOD.replace("photos", str(tmp_path)), encoding="utf-8")
    (tmp_path / MANIFEST).write_text("rows")
    begun = {"weights": "ab" * 32, "precision": "float32", "augmentation": "1"}
    assert _claim(out, read_config(source), source, begun, resume=False) is False
    assert _claim(out, read_config(source), source, begun, resume=True) is False
    for changed in ({"weights": "cd" * 32}, {"precision": "mixed_bfloat16"}, {"augmentation": "2"}):
        with pytest.raises(TrainingRefused, match=f"now {next(iter(changed.values()))}"):
            _claim(out, read_config(source), source, begun | changed, resume=True)
    save_json(out / BEGUN, {name: value for name, value in begun.items() if name != "augmentation"})
    with pytest.raises(TrainingRefused, match="augmentation unknown, now 1"):
        _claim(out, read_config(source), source, begun, resume=True)
