"""Owns a training run from configuration to bundle: every member in turn, each finished step kept, none done twice."""

# ruff: noqa: PLC0415 - TensorFlow takes seconds to import
from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from shared.bundle import sha256_of
from shared.errors import TrainingRefused
from training import manifest, runs, splits
from training.backbone import Start, find_start
from training.config import Config
from training.learning import resized
from training.member import STATE, MemberTraining, build
from training.pictures import look_at_all
from training.publish import rounded, widened
from training.runs import Member, member_name
from training.served import exact_engine
from training.served import run as run_engine
from training.shipping import choose_gate, operations, ship
from worker.inference.engine import Outputs
from worker.inference.preprocess import Quality

Tell = Callable[[str], None]
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class _Material:
    """What every member learns from."""

    frame: pd.DataFrame
    kinds: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    qualities: list[Quality]
    start: Start


def train(config: Config, out: Path, *, source: Path, resume: bool, tell: Tell = lambda _: None) -> None:
    """Trains, calibrates and publishes.

    1. Reads and checks everything that may be wrong: manifest, splits, photos, weights. Nothing is written before.
    2. Trains each member; a finished one is kept, an unfinished one goes on after its last epoch.
    3. Chooses the gate, calibrates the first member on its out-of-fold photos, writes the bundle and the facts.
    Raises TrainingRefused, DataRefused, BundleError.
    """
    _prepare()
    material = _material(config, tell)
    _claim(out, config, source, resume=resume)
    folds = int(material.frame["fold"].max()) + 1
    if not (out / runs.FROZEN).is_file():
        tell("features of the network that training begins with")
        frozen = _outputs(rounded(build(len(config.data.classes), config.recipe, material.start, 0)), material.pixels)
        runs.save_array(out / runs.FROZEN, frozen.features)
    runs.save_qualities(out / runs.QUALITIES, material.qualities)
    small = resized(material.pixels, config.recipe.side)
    for seed in config.recipe.seeds:
        for fold in range(folds):
            _member(config, material, small, out, fold=fold, seed=seed, tell=tell)
    _publish(config, material, out, folds, tell)


def _prepare() -> None:
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def _material(config: Config, tell: Tell) -> _Material:
    tell("checking manifest and photos")
    frame = manifest.read(config.manifest, folder=config.data.folder)
    splits.fold(frame, 0)
    kinds = runs.kinds_of(frame["label"].tolist(), config.data.classes)
    start = find_start(config.network, Path.home() / ".cache" / "poxvisio")
    pixels, qualities = look_at_all(config.data.folder, frame["image"].tolist())
    return _Material(frame, kinds, pixels, qualities, start)


def _claim(out: Path, config: Config, source: Path, *, resume: bool) -> None:
    """Makes the run's folder, or finds the one to go on with; a run never changes its configuration."""
    asked = source.read_bytes()
    if (out / runs.CONFIG).is_file():
        if not resume:
            raise TrainingRefused(f"{out} holds a run already: --resume goes on with it, another --out begins anew")
        same = (out / runs.CONFIG).read_bytes() == asked
        if not same or sha256_of(out / runs.MANIFEST) != sha256_of(config.manifest):
            raise TrainingRefused(
                f"{out} was begun with another configuration or manifest: begin anew in another --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config.manifest, out / runs.MANIFEST)
    runs.replace_file(out / runs.CONFIG, asked)


def _outputs(stored: dict[str, NDArray[Any]], pixels: NDArray[np.uint8]) -> Outputs:
    with tempfile.TemporaryDirectory() as cache:
        return run_engine(exact_engine(widened(stored), pixels[:8], Path(cache)), pixels)


def _member(
    config: Config, material: _Material, small: NDArray[np.uint8], out: Path, *, fold: int, seed: int, tell: Tell
) -> None:
    folder = out / runs.MEMBERS / member_name(fold, seed)
    if (folder / runs.OUTPUTS).is_file():
        return
    split = splits.fold(material.frame, fold)
    model = build(len(config.data.classes), config.recipe, material.start, 1000 * seed + fold)
    MemberTraining(model, config.recipe, material.start, folder, tell).run(
        small, material.kinds, split, 1000 * seed + fold
    )
    stored = rounded(model)
    outputs = _outputs(stored, material.pixels)
    roles = np.full(len(material.kinds), runs.UNUSED, dtype=np.uint8)
    roles[split.train], roles[split.validation], roles[split.test] = runs.TRAIN, runs.VALIDATION, runs.TEST
    save_file(dict(stored), folder / _WEIGHTS)
    runs.save_member(out, Member(fold, seed, outputs.logits, outputs.features, roles))
    (folder / STATE).unlink(missing_ok=True)


def _publish(config: Config, material: _Material, out: Path, folds: int, tell: Tell) -> None:
    tell("choosing the gate, calibrating, writing the bundle")
    seeds, frame = config.recipe.seeds, material.frame
    synthetic = bool(frame["synthetic"].any())
    names = config.data.names or [name if name != runs.REST else "other" for name in config.data.classes]
    labels = [f"{name} (synthetic)" if synthetic else name for name in names]
    # The first of the first, named before any result is known: never the best one.
    shipped = runs.load_member(out, 0, seeds[0])
    stored = load_file(out / runs.MEMBERS / shipped.name / _WEIGHTS)
    identity = {"id": config.network.id, "labels": labels, "clinical": False, "synthetic": synthetic}
    start = {"kind": material.start.kind, "sha256": material.start.sha256}
    recipe = {key: str(value) for key, value in config.recipe.model_dump().items()}
    with tempfile.TemporaryDirectory() as cache:
        engine = exact_engine(widened(stored), material.pixels[:8], Path(cache))
        gate = choose_gate(shipped, material.kinds, engine)
        described = manifest.describe(frame)
        card = {"use": "research-only", "licence": config.data.licence, "data": {
            "manifest_digest": described.digest, "photos": described.images, "patients": described.patients,
            "sources": list(described.sources)}, "start": start, "training": recipe, "gate": gate,
            "calibrated_on": "out-of-fold photos of fold 0, which neither training nor stopping saw"}  # fmt: skip
        ship(out / runs.BUNDLE, identity, stored, shipped, kinds=material.kinds, pixels=material.pixels,
             qualities=material.qualities, gate_kind=gate["kind"], card=card)  # fmt: skip
        measured = operations(engine, material.pixels[0], out / runs.BUNDLE, _machine())
    runs.save_json(out / runs.OPERATIONS, measured)
    runs.save_json(out / runs.FACTS, {
        "format": runs.FORMAT, "labels": labels, "classes": config.data.classes, "synthetic": synthetic,
        "licence": config.data.licence, "folder": str(config.data.folder.resolve()), "folds": folds, "seeds": seeds,
        "members": [{"fold": fold, "seed": seed} for seed in seeds for fold in range(folds)],
        "shipped": {"fold": 0, "seed": seeds[0]}, "start": start, "recipe": recipe, "commit": _commit(),
        "versions": {name: version(name) for name in ("keras", "numpy", "pillow", "openvino", "scikit-learn")},
        "hardware": _machine(), "precision": config.recipe.precision, "gate": gate,
    })  # fmt: skip
    tell(f"finished: {out / runs.BUNDLE}; `poxvisio evaluate {out}` writes the report")


def _machine() -> str:
    return f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "not a checkout"
