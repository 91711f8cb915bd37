"""The long form (``make training``): every kind of weights trained to a bundle, on one device and on two, at tiny size.

What is learnt is nothing: 48 drawn photos, one epoch a phase, 32 pixels. What is shown is that each path ends.
"""

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shared.bundle import load_bundle
from tests.unit.training.published_weights import host, publish
from training import manifest
from training.backbone import Published
from training.casting import Plan
from training.config import Config, Data, Network, Recipe
from training.layouts import CLASSES, V2
from training.runs import BUNDLE, load_run
from training.synthesis import synthesise
from training.training_run import train

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(side=32, batch=8, head_epochs=1, tune_epochs=1)


# Of the module, so that it comes before what the module's tests share, which is dear too.
@pytest.fixture(autouse=True, scope="module")
def only_in_the_long_form(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--long"):
        pytest.skip("minutes of CPU: make training")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    synthesise(Plan(layout="msld-v2", patients=6, copies=1), folder)
    manifest.write(manifest.build(folder, folds=3), folder / "manifest.csv")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Published]:
    folder = tmp_path_factory.mktemp("host")
    return folder, publish(folder)


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["imagenet", "file", "bundle", "scratch"])
def test_training_from_every_kind_of_weights_ends_in_a_bundle_of_six_labels(
    kind: str, photos: Path, weights: tuple[Path, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, published = weights
    file = folder / "imagenet.h5"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    said = {"file": f"file:{file}", "bundle": f"bundle:{ROOT / 'models' / 'demo'}"}.get(kind, kind)
    network = Network(id=f"from-{kind}", weights=said, weights_sha256=digest if kind == "file" else None)
    data = Data(folder=photos, classes=list(CLASSES[V2]), licence="as the software's", split="named")
    source = tmp_path / "config.toml"
    source.write_text("# given by the test\n", encoding="utf-8")
    # From scratch in two drawings of it, which are two networks; the first is served, whatever either reached.
    seeds = [7, 8] if kind == "scratch" else [7]
    config = Config(data=data, network=network, recipe=RECIPE.model_copy(update={"seeds": seeds}))
    with host(folder) as address:
        train(
            config, tmp_path / "run", source=source, resume=False,
            imagenet=replace(published, url=address + published.url),
        )  # fmt: skip
    bundle, run = load_bundle(tmp_path / "run" / BUNDLE), load_run(tmp_path / "run")
    assert bundle.labels == tuple(f"{name} (synthetic)" for name in CLASSES[V2])
    assert bundle.synthetic
    demo = load_bundle(ROOT / "models" / "demo").digest
    assert run.facts["start"]["sha256"] == {"scratch": "0" * 64, "bundle": demo}.get(kind, digest)
    assert (run.facts["split"], run.facts["folds"]) == ("named", 1)
    assert [(member.fold, member.seed) for member in run.members] == [(0, seed) for seed in seeds]
    assert run.shipped is run.members[0]
    assert len({member.logits.tobytes() for member in run.members}) == len(seeds)


@pytest.mark.timeout(1200)
def test_two_devices_share_each_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.training.one_member", "--resnet50", "--devices", "2", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "copies: 2" in done.stdout
    assert done.stdout.count("validation NLL") == 3
    assert "nan" not in done.stdout


@pytest.mark.timeout(1200)
def test_ctrl_c_keeps_what_is_finished_says_how_to_go_on_and_leaves_no_bundle(photos: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(
        f'[data]\nfolder = "{photos}"\nclasses = ["Monkeypox", "*"]\nlicence = "own"\nsplit = "named"\n'
        f'[network]\nid = "tiny"\nweights = "bundle:{ROOT / "models" / "demo"}"\n'
        "[recipe]\nside = 32\nbatch = 8\nhead_epochs = 1\ntune_epochs = 50\npatience = 50\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "cli.main", "train", "--config", str(config), "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        told = []
        for line in child.stderr:
            told.append(line)
            if "head 1/1" in line:
                os.kill(child.pid, signal.SIGINT)
                break
        told += list(child.stderr)
    assert child.returncode == 130, "".join(told)
    assert f"go on with --out {tmp_path / 'run'} --resume" in "".join(told)
    assert not (tmp_path / "run" / BUNDLE).exists()
    assert (tmp_path / "run" / "members" / "fold0-seed7" / "state.npz").is_file()
