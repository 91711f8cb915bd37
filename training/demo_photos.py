"""Owns the demo bundle's sample photos: patients the network never saw, and files that are no photos."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.probes import probe
from training.synthetic import NEGATIVE, POSITIVE, jpeg, patient, render

SEED = 7
PATIENTS = range(588, 600)  # of each class; those that the demo network learns from have lower numbers
SIDES = (224, 256, 288, 320, 352, 384, 416, 448, 480, 512, 576, 640)
TRUTHS = {POSITIVE: "mpox (synthetic)", NEGATIVE: "other (synthetic)"}
_QUALITY = 80
_END_OF_IMAGE = b"\xff\xd9"
_NO_PHOTO = "This is a text file that was named like a photo.\n"


def sample_photos() -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The files by name, and what each one truly is, in order."""
    files: dict[str, bytes] = {}
    truths: list[dict[str, Any]] = []

    def add(name: str, content: bytes, truth: str, **more: object) -> None:
        files[name] = content
        truths.append({"file": name, "truth": truth, **more})

    for at, number in enumerate(PATIENTS):
        for kind in (POSITIVE, NEGATIVE):
            who = patient(SEED, kind, number)
            content = jpeg(render(who, 0, side=SIDES[at]), quality=_QUALITY)
            name = f"photo-{len(files) + 1:02}.jpg"
            add(name, content, TRUTHS[kind], side=SIDES[at], stage=round(who.stage, 2), tone=who.tone)
    whole = files["photo-11.jpg"]
    add("garden.jpg", jpeg(probe(SEED, "shapes", 1000, side=480), quality=_QUALITY), "no skin")
    add("damaged.jpg", whole[: len(whole) // 2] + _END_OF_IMAGE, "damaged")
    add("notes.jpg", _NO_PHOTO.encode(), "not a photo")
    add("photo-03-again.jpg", files["photo-03.jpg"], "duplicate of photo-03.jpg")
    return files, truths


def main() -> None:
    """Writes the sample photos and `photos.json`."""
    parser = argparse.ArgumentParser(prog="python -m training.demo_photos", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the photos")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    files, truths = sample_photos()
    for name, content in files.items():
        (out / name).write_bytes(content)
    listing = {"synthetic": True, "seed": SEED, "photos": truths}
    (out / "photos.json").write_text(json.dumps(listing, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
