"""Owns synthetic data sets: generated photos in exactly the folders and names of MSLD, marked as generated everywhere.

What real data sets do to a classifier can be planted: a watermark that tells the class, photos of one patient under
another's name, wrong labels, a skin tone that goes with the class.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from training.casting import Drawn, Plan, patient_shown, photos, ranks, side_of
from training.landing import landing
from training.layouts import MASKS, SYNTHETIC_NOTE, SYNTHETIC_TRAITS, V1
from training.stream import Stream
from training.synthetic import GENERATOR_VERSION, jpeg, lesion_mask, render

NOTE: Final = (
    "SYNTHETIC: every picture here was drawn by a program (generator version {version}, seed {seed}).\n"
    "None shows a person. They prove that software works and say nothing about patients. Research use only.\n"
)
_COPY: Final = 12


def synthesise(plan: Plan, folder: Path, *, advance: Callable[[int], None] = lambda _: None) -> list[Drawn]:
    """Draw the data set into a new or empty folder, and return what was drawn.

    1. Refuses a folder that holds anything.
    2. Draws each photo, its augmented copies and, where asked for, its mask, into a temporary folder beside it.
    3. Writes the tables and the note that says what this is, and puts the folder in its place.
    """
    drawn = photos(plan)
    rows = ranks(plan, drawn)
    write = _write_first if plan.layout == V1 else _write_second
    with landing(folder) as place:
        for done, each in enumerate(drawn, start=1):
            pixels, stem = _pixels(plan, each), each.stem(plan.layout)
            copies = [jpeg(_transformed(pixels, plan.seed, each, copy)) for copy in range(plan.copies)]
            write(place, each.label, stem, rows[each.label, each.number], original=jpeg(pixels), copies=copies)
            if plan.masks:
                _put(place / MASKS / f"{stem}.png", _mask(plan, each))
            advance(done)
        _write_tables(plan, place, drawn)
    return drawn


def _pixels(plan: Plan, each: Drawn) -> NDArray[np.uint8]:
    if each.shows is not None:
        smaller = Image.fromarray(_pixels(plan, each.shows)).resize((side_of(plan, each) * 7 // 8,) * 2)
        return np.asarray(ImageEnhance.Brightness(smaller).enhance(1.04), dtype=np.uint8)
    pixels = render(patient_shown(plan, each), each.image, side=side_of(plan, each))
    return watermarked(pixels) if each.watermark else pixels


def _mask(plan: Plan, each: Drawn) -> bytes:
    shown = each.shows or each
    side = side_of(plan, each) if each.shows is None else side_of(plan, each) * 7 // 8
    out = io.BytesIO()
    Image.fromarray(lesion_mask(patient_shown(plan, shown), shown.image, side=side)).save(out, "PNG")
    return out.getvalue()


def watermarked(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo with the name of an invented clinic in its upper right corner, small enough for perceptual hashes."""
    picture = Image.fromarray(pixels)
    side = picture.width
    ink = Image.new("L", picture.size, 0)
    ImageDraw.Draw(ink).text((side * 0.7, side * 0.03), "CLINIC A", fill=190, font_size=max(6.0, side * 0.055))
    picture.paste((30, 60, 220), mask=ink)
    return np.asarray(picture, dtype=np.uint8)


def _transformed(pixels: NDArray[np.uint8], seed: int, each: Drawn, copy: int) -> NDArray[np.uint8]:
    """An augmented copy as the authors made theirs: turned, mirrored, shifted in light and contrast; no new drawing."""
    kind = sum(map(ord, each.label))
    stream = Stream(seed, _COPY, kind, each.number, each.image, copy)
    turned = np.rot90(pixels, stream.integer(0, 3))
    picture = Image.fromarray(turned[:, ::-1] if stream.uniform() < 0.5 else turned)  # noqa: PLR2004 - a coin
    picture = picture.rotate(stream.uniform(-20, 20), Image.Resampling.BILINEAR)
    picture = ImageEnhance.Brightness(picture).enhance(stream.uniform(0.8, 1.2))
    return np.asarray(ImageEnhance.Contrast(picture).enhance(stream.uniform(0.8, 1.2)), dtype=np.uint8)


def _write_first(
    place: Path, label: str, stem: str, rank: tuple[int, int], *, original: bytes, copies: Sequence[bytes]
) -> None:
    """One photo of MSLD v1.0: train and val hold its augmented copies, test the photo itself."""
    folder = {"Monkeypox": "Monkey Pox"}.get(label, label)
    _put(place / "Original Images" / "Original Images" / folder / f"{stem}.jpg", original)
    where, many = rank
    tests, validations = max(1, round(0.2 * many)), max(1, round(0.1 * many))
    side = "Test" if where < tests else "Val" if where < tests + validations else "Train"
    fold = place / "Fold1" / "Fold1" / "Fold1" / side / label
    if side == "Test":
        _put(fold / f"{stem}.jpg", original)
    for number, copy in enumerate(copies):
        name = f"{stem}_{number:02}.jpg"
        _put(place / "Augmented Images" / "Augmented Images" / f"{label}_augmented" / name, copy)
        if side != "Test":
            _put(fold / name, copy)


def _write_second(
    place: Path, label: str, stem: str, rank: tuple[int, int], *, original: bytes, copies: Sequence[bytes]
) -> None:
    """One photo of MSLD v2.0: in each of five folds once, and its augmented copies where it trains."""
    for fold in range(5):
        side = {0: "Test", 1: "Valid"}.get((rank[0] - fold) % 5, "Train")
        root = place / "Original Images" / "Original Images" / "FOLDS"
        _put(root / f"fold{fold + 1}" / side / label / f"{stem}.jpg", original)
        if side == "Train":
            augmented = place / "Augmented Images" / "Augmented Images" / "FOLDS_AUG" / f"fold{fold + 1}_AUG" / side
            for number, copy in enumerate(copies):
                _put(augmented / label / f"{stem}_{number or 'ORIGINAL'}.jpg", copy if number else original)


def _write_tables(plan: Plan, place: Path, drawn: Sequence[Drawn]) -> None:
    note = NOTE.format(version=GENERATOR_VERSION, seed=plan.seed)
    (place / SYNTHETIC_NOTE).write_text(f"{note}\n{plan}\n", encoding="utf-8")
    if plan.layout == V1:
        rows = [(each.stem(V1), each.label) for each in drawn]
        _write_table(place / "Monkeypox_Dataset_metadata.csv", ("ImageID", "label"), rows)
    columns = ("image", "label", "true_label", "look", "stage", "tone", "watermark", "duplicate_of")
    _write_table(place / SYNTHETIC_TRAITS, columns, [_traits(plan, each) for each in drawn])


def _traits(plan: Plan, each: Drawn) -> tuple[object, ...]:
    who = patient_shown(plan, each.shows or each)
    shown = each.shows.stem(plan.layout) if each.shows else ""
    stem = each.stem(plan.layout)
    return stem, each.label, each.true_label, who.sub, round(who.stage, 4), who.tone, int(each.watermark), shown


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
