"""Small data sets in the layouts of MSLD, of smooth random pictures: cheap to make, and unlike each other."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

V1_CLASSES = {"Monkeypox": "M", "Others": "NM"}
V2_CLASSES = {"Monkeypox": "MKP", "Chickenpox": "CHP", "Measles": "MSL", "Cowpox": "CWP", "HFMD": "HFMD",
              "Healthy": "HEALTHY"}  # fmt: skip


def picture(*key: int, side: int = 48) -> bytes:
    """The JPEG of a smooth random picture, the same for the same key."""
    coarse = np.random.default_rng(key).uniform(0, 255, (8, 8, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def first(folder: Path, *, patients: int = 6, images: int = 2, copies: int = 1) -> None:
    """MSLD v1.0 in small: folders doubled, `Monkey Pox` and `Monkeypox`, Fold1 by patient, augmented copies."""
    rows = []
    for kind, (label, prefix) in enumerate(V1_CLASSES.items()):
        for number in range(1, patients + 1):
            split = ("Test", "Val")[number - 1] if number <= 2 else "Train"
            for image in range(1, images + 1):
                stem, data = f"{prefix}{number:02}_{image:02}", picture(kind, number, image)
                place = "Monkey Pox" if label == "Monkeypox" else label
                put(folder / "Original Images" / "Original Images" / place / f"{stem}.jpg", data)
                fold = folder / "Fold1" / "Fold1" / "Fold1" / split / label
                names = [stem] if split == "Test" else [f"{stem}_{copy:02}" for copy in range(copies)]
                for name in names:
                    put(fold / f"{name}.jpg", data)
                for copy in range(copies):
                    augmented = folder / "Augmented Images" / "Augmented Images" / f"{label}_augmented"
                    put(augmented / f"{stem}_{copy:02}.jpg", data)
                rows.append((stem, label))
    with (folder / "Monkeypox_Dataset_metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("ImageID", "label"), *rows])


def second(folder: Path, *, patients: int = 5, images: int = 1, folds: Sequence[int] = (1, 2, 3, 4, 5)) -> None:
    """MSLD v2.0 in small: five folds, every photo once in each."""
    for fold in folds:
        root = folder / "Original Images" / "Original Images" / "FOLDS" / f"fold{fold}"
        for kind, (label, prefix) in enumerate(V2_CLASSES.items()):
            for number in range(1, patients + 1):
                place = (number - fold) % 5
                split = "Test" if place == 0 else "Valid" if place == 1 else "Train"
                for image in range(1, images + 1):
                    data = picture(10 + kind, number, image)
                    put(root / split / label / f"{prefix}_{number:02}_{image:02}.jpg", data)
    put(
        folder / "Augmented Images" / "Augmented Images" / "FOLDS_AUG" / "fold1_AUG" / "Train" / "Monkeypox"
        / "MKP_03_01_1.jpg",
        picture(10, 3, 1),
    )  # fmt: skip
