"""Owns a training run from configuration to bundle: every member in turn, each finished step kept, none done twice."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from shared.bundle import sha256_of
from shared.errors import DataRefused, TrainingRefused
from training import hardware, manifest, runs, splits
from training.augmentation import PICTURES
from training.backbone import IMAGENET, Published, Start, find_start
from training.config import Config
from training.event_log import EventLog
from training.landing import landing, replace_file, telling_of_the_disk
from training.manifest_form import as_csv
from training.member import STATE, MemberTraining, Watch
from training.pictures import look_at_all
from training.publish import rounded, widened
from training.runs import Member, member_name
from training.schedule import phases_of
from training.served import exact_engine
from training.served import run as run_engine
from training.shipping import choose_gate, operations, ship
from training.trunk import build
from worker.inference.engine import Outputs
from worker.inference.preprocess import Quality

Tell = Callable[[str], None]
Show = Callable[[int], AbstractContextManager[Callable[[int], None]]]
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class _Material:
    """What every member learns from, and in which arithmetic."""

    frame: pd.DataFrame
    kinds: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    qualities: list[Quality]
    start: Start
    precision: str

    @property
    def begun(self) -> dict[str, str]:
        """What must be the same where a run goes on, and no configuration says."""
        return {"weights": self.start.sha256, "precision": self.precision, "augmentation": PICTURES}

    def network(self, config: Config, seed: int) -> Any:
        """A network as training begins with it."""
        return build(
            len(config.data.classes), self.start, seed, dropout=config.recipe.dropout, precision=self.precision
        )


def train(
    config: Config, out: Path, *, source: Path, resume: bool, tell: Tell = lambda _: None,
    show: Show = lambda _: nullcontext(lambda _: None), imagenet: Published = IMAGENET,
) -> None:  # fmt: skip
    """Trains, calibrates and publishes.

    1. Reads and checks everything that may be wrong: manifest, splits, photos, weights. Nothing is written before.
    2. Trains each member; a finished one is kept, an unfinished one goes on after its last epoch.
    3. Chooses the gate, calibrates the first member on its out-of-fold photos, writes the bundle and the facts.
    `show` is told how many epochs there are at most, and gives what is told how many are done. Raises TrainingRefused,
    DataRefused, BundleError, and Unavailable where ImageNet's weights are out of reach.
    """
    _refuse_foreign(out)
    frame, kinds = _checked(config, tell)  # before TensorFlow is loaded: that takes seconds, and says much
    hardware.prepare()
    material = _material(config, frame, kinds, imagenet)
    # Built before anything is written: weights may not fit.
    untrained = None if (out / runs.FROZEN).is_file() else material.network(config, 0)
    try:
        if _claim(out, config, source, material.begun, resume=resume):
            tell(f"{out} is finished: nothing to do")
            return
        _begin(material, untrained, out, tell)
        del untrained
        members = _train_members(config, material, out, tell, show)
        _publish(config, material, out, members, tell)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            with telling_of_the_disk(out):
                raise
        raise TrainingRefused(
            f"the disk is full at {out}: make room there, then --resume goes on after the last finished epoch"
        ) from error


def _checked(config: Config, tell: Tell) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """The manifest, held against its photos, and the class of each photo."""
    tell("checking manifest and photos")
    if not config.data.folder.is_dir():
        raise DataRefused(f"data.folder: there is no folder {config.data.folder}")
    frame = manifest.read(config.manifest, folder=config.data.folder)
    for warning in _split(config, frame, 0).warnings:
        tell(f"warning: {warning}")
    return frame, runs.kinds_of(frame["label"].tolist(), config.data.classes)


def _material(config: Config, frame: pd.DataFrame, kinds: NDArray[np.int64], imagenet: Published) -> _Material:
    start = find_start(config.network, imagenet=imagenet)
    pixels, qualities = look_at_all(config.data.folder, frame["image"].tolist())
    return _Material(frame, kinds, pixels, qualities, start, hardware.precision_here(config.recipe.precision))


def _split(config: Config, frame: pd.DataFrame, fold: int) -> splits.Split:
    return splits.named(frame) if config.data.split == runs.NAMED else splits.fold(frame, fold)


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds something else than a run: data set and run would overwrite each other's manifest."""
    if (out / runs.CONFIG).is_file() or not out.exists():
        return
    first = (runs.MANIFEST, runs.BEGUN, runs.CONFIG)  # left by whoever was stopped at once
    if not out.is_dir() or {path.name for path in out.iterdir()} - {*first, *(f".{name}.part" for name in first)}:
        raise TrainingRefused(f"{out} holds something else than a run: give a new or an empty folder")


def _claim(out: Path, config: Config, source: Path, begun: Mapping[str, str], *, resume: bool) -> bool:
    """Makes the run's folder, or finds the one to go on with, and says whether that is finished.

    A run never changes its configuration, nor half way the weights it begins with, its arithmetic or its pictures.
    """
    asked = source.read_bytes()
    if (out / runs.CONFIG).is_file():
        if not resume:
            raise TrainingRefused(f"{out} holds a run already: --resume goes on with it, another --out begins anew")
        same = (out / runs.CONFIG).read_bytes() == asked
        if not same or (out / runs.MANIFEST).read_bytes() != as_csv(config.manifest):
            raise TrainingRefused(
                f"{out} was begun with another configuration or manifest: begin anew in another --out"
            )
        if (out / runs.FACTS).is_file():
            return True
        before = json.loads((out / runs.BEGUN).read_text(encoding="utf-8"))
        # A run of an older version does not say all of it.
        was = {name: before.get(name, "unknown") for name in begun}
        if changed := [f"{name} {was[name]}, now {value}" for name, value in begun.items() if was[name] != value]:
            raise TrainingRefused(
                f"{out} was begun with {'; '.join(changed)}: put that back, or begin anew in another --out"
            )
        return False
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / runs.MANIFEST, as_csv(config.manifest))
    runs.save_json(out / runs.BEGUN, begun)
    replace_file(out / runs.CONFIG, asked)
    return False


def _begin(material: _Material, untrained: Any, out: Path, tell: Tell) -> None:
    """What does not change with the members: the features that training begins with, the quality of each photo."""
    if untrained is not None:
        tell("features of the network that training begins with")
        frozen = _outputs(rounded(untrained), material.pixels)
        runs.save_array(out / runs.FROZEN, frozen.features)
    runs.save_qualities(out / runs.QUALITIES, material.qualities)


def _outputs(stored: dict[str, NDArray[Any]], pixels: NDArray[np.uint8]) -> Outputs:
    with tempfile.TemporaryDirectory() as cache:
        return run_engine(exact_engine(widened(stored), pixels[:8], Path(cache)), pixels)


def _train_members(config: Config, material: _Material, out: Path, tell: Tell, show: Show) -> list[tuple[int, int]]:
    """Each fold with each seed, or the data set's own split with each seed; returns them."""
    named = config.data.split == runs.NAMED
    folds = 1 if named else int(material.frame["fold"].max()) + 1
    members = [(fold, seed) for seed in config.recipe.seeds for fold in range(folds)]
    each = sum(phase.epochs for phase in phases_of(config.recipe, transfers=material.start.transfers))
    with show(each * len(members)) as advance:
        for place, (fold, seed) in enumerate(members):
            log = EventLog(out / runs.LOGS / member_name(fold, seed))
            watch = Watch(tell, partial(_count, advance, each * place), log)
            _member(config, material, out, watch, fold=fold, seed=seed)
            advance(each * (place + 1))  # an early stop leaves epochs out
    return members


def _count(advance: Callable[[int], None], before: int, done: int) -> None:
    advance(before + done)


def _member(config: Config, material: _Material, out: Path, watch: Watch, *, fold: int, seed: int) -> None:
    folder = out / runs.MEMBERS / member_name(fold, seed)
    if (folder / runs.OUTPUTS).is_file():
        return
    split = _split(config, material.frame, fold)
    hardware.forget_networks()
    with hardware.strategy_over(hardware.gpus()).scope():
        model = material.network(config, 1000 * seed + fold)
        MemberTraining(model, config.recipe, material.start, folder, watch).run(
            material.pixels, material.kinds, split, 1000 * seed + fold
        )
    stored = rounded(model)
    outputs = _outputs(stored, material.pixels)
    roles = np.full(len(material.kinds), runs.UNUSED, dtype=np.uint8)
    roles[split.train], roles[split.validation], roles[split.test] = runs.TRAIN, runs.VALIDATION, runs.TEST
    replace_file(folder / _WEIGHTS, save(dict(stored)))  # its own writer tells of a full disk by an error of its own
    runs.save_member(out, Member(fold, seed, outputs.logits, outputs.features, roles))
    (folder / STATE).unlink(missing_ok=True)


def _publish(config: Config, material: _Material, out: Path, members: list[tuple[int, int]], tell: Tell) -> None:
    tell("choosing the gate, calibrating, writing the bundle")
    seeds, frame = config.recipe.seeds, material.frame
    synthetic = bool(frame["synthetic"].any())
    names = config.data.names or [name if name != runs.REST else "other" for name in config.data.classes]
    labels = [f"{name} (synthetic)" if synthetic else name for name in names]
    # The first of the first, named before any result is known: never the best one.
    shipped = runs.load_member(out, 0, seeds[0])
    which = "the data set's own split" if config.data.split == runs.NAMED else "fold 0"
    stored = load_file(out / runs.MEMBERS / shipped.name / _WEIGHTS)
    identity = {"id": config.network.id, "labels": labels, "clinical": False, "synthetic": synthetic}
    start = {"kind": material.start.kind, "sha256": material.start.sha256}
    recipe = {key: str(value) for key, value in config.recipe.model_dump().items()}
    for unfinished in (out / runs.BUNDLE, *out.glob(f".{runs.BUNDLE}.*")):  # left by whoever was stopped here
        shutil.rmtree(unfinished, ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache:
        engine = exact_engine(widened(stored), material.pixels[:8], Path(cache))
        gate = choose_gate(shipped, material.kinds, engine)
        described = manifest.describe(frame)
        card = {"use": "research-only", "made_by": {
            "command": "poxvisio train", "configuration_sha256": sha256_of(out / runs.CONFIG)},
            "licence": config.data.licence, "data": {
            "manifest_digest": described.digest, "photos": described.images, "patients": described.patients,
            "sources": list(described.sources)}, "start": start, "training": recipe, "gate": gate,
            "calibrated_on": f"test photos of {which}, which neither training nor stopping saw"}  # fmt: skip
        with landing(out / runs.BUNDLE) as place:
            ship(place, identity, stored, shipped, kinds=material.kinds, pixels=material.pixels,
                 qualities=material.qualities, gate_kind=gate["kind"], card=card)  # fmt: skip
        measured = operations(engine, material.pixels[0], out / runs.BUNDLE, hardware.machine())
    runs.save_json(out / runs.OPERATIONS, measured)
    runs.save_json(out / runs.FACTS, {
        "format": runs.FORMAT, "labels": labels, "classes": config.data.classes, "synthetic": synthetic,
        "licence": config.data.licence, "folder": str(config.data.folder.resolve()), "split": config.data.split,
        "folds": len(members) // len(seeds), "seeds": seeds,
        "members": [{"fold": fold, "seed": seed} for fold, seed in members],
        "shipped": {"fold": 0, "seed": seeds[0]}, "start": start, "recipe": recipe, "commit": _commit(),
        "versions": hardware.versions(), "hardware": hardware.machine(), "precision": material.precision, "gate": gate,
    })  # fmt: skip
    tell(f"finished: {out / runs.BUNDLE}; `poxvisio evaluate {out}` writes the report")


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "not a checkout"
