"""A small finished run without any training: the shipped demo network stands in for each member."""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.unit.training.folders import put
from training import manifest, splits
from training.baselines import colours
from training.pictures import look_at_all
from training.runs import (
    BUNDLE,
    CONFIG,
    FACTS,
    FORMAT,
    FROZEN,
    MANIFEST,
    OPERATIONS,
    QUALITIES,
    Member,
    save_json,
    save_member,
    save_qualities,
)
from training.served import Served
from training.shipping import CHOSEN_ON
from training.synthesis import watermarked
from training.synthetic import jpeg, lesion_mask, patient, render

DEMO = Path(__file__).parents[3] / "models" / "demo"


def photos(folder: Path, patients: int, images: int = 2) -> None:
    """Synthetic photos as a plain folder, a folder a class and a folder a patient, with the masks of their lesions.

    Beside them, as `clean`, the same photos without the mark that goes with the first class in nine of ten.
    """
    for kind, label in enumerate(("Monkeypox", "Others")):
        for number in range(patients):
            for image in range(images):
                who, stem = patient(11, kind, number), f"{label[0]}{number:02}_{image}"
                pixels, mask = render(who, image, side=224), lesion_mask(who, image, side=224)
                marked = ((number * images + image) % 10 > 0) == (kind == 0)
                put(folder / label / stem[:3] / f"{stem}.jpg", jpeg(watermarked(pixels) if marked else pixels))
                put(folder.with_name("clean") / label / stem[:3] / f"{stem}.jpg", jpeg(pixels))
                (folder / "Masks").mkdir(exist_ok=True)
                Image.fromarray(mask).save(folder / "Masks" / f"{stem}.png")


def make(out: Path, *, patients: int = 12, folds: int = 3) -> Path:
    """The run's folder."""
    pictures = out / "photos"
    photos(pictures, patients)
    run = out / "run"
    run.mkdir()
    frame = manifest.build(pictures, folds=folds)
    manifest.write(frame, run / MANIFEST)
    (run / CONFIG).write_text("[data]\n", encoding="utf-8")
    pixels, qualities = look_at_all(pictures, frame["image"].tolist())
    shutil.copytree(DEMO, run / BUNDLE, ignore=shutil.ignore_patterns("photos", "README.md"))
    with tempfile.TemporaryDirectory() as cache:
        served = Served.load(run / BUNDLE, Path(cache))
        outputs = served.outputs(pixels)
    for fold in range(folds):
        split = splits.fold(frame, fold)
        roles = np.zeros(len(frame), dtype=np.uint8)
        roles[split.validation], roles[split.test] = 1, 2
        save_member(run, Member(fold, 7, outputs.logits, outputs.features, roles))
    np.save(run / FROZEN, np.hstack([colours(pixels), outputs.features[:, :64]]).astype(np.float32))
    save_qualities(run / QUALITIES, qualities)
    save_json(run / OPERATIONS, {"p50_ms": 30.0, "p95_ms": 31.0, "p99_ms": 32.0, "memory_mib": 500.0, "size_mb": 47.5,
                                 "machine": "a machine of the tests"})  # fmt: skip
    save_json(run / FACTS, {
        "format": FORMAT, "labels": list(served.bundle.labels), "classes": ["Monkeypox", "Others"], "synthetic": True,
        "licence": "as the software's", "folder": str(pictures), "split": "folds", "folds": folds, "seeds": [7],
        "members": [{"fold": fold, "seed": 7} for fold in range(folds)], "shipped": {"fold": 0, "seed": 7},
        "start": {"kind": "the demo bundle, not trained further", "sha256": hashlib.sha256(b"none").hexdigest()},
        "recipe": {"trained": "no"}, "commit": "none", "versions": {"numpy": np.__version__}, "hardware": "any",
        "precision": "float32",
        "gate": {"kind": "residual", "measured": {"residual": {"auroc": 0.9, "rejected": 0.8}}, "chosen_on": CHOSEN_ON},
    })  # fmt: skip
    return run


if __name__ == "__main__":
    print(json.dumps({"run": str(make(Path(sys.argv[1]), patients=int(sys.argv[2])))}))
