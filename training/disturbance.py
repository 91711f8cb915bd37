"""Owns what happens to answers when photos are disturbed as phones, messengers and hands disturb them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from training.intervals import Measure, Resampling, no_measure, shown
from training.metrics import auroc, mean, share
from training.served import Served
from worker.inference.preprocess import Quality, measure_quality, network_input

Change = Callable[[Image.Image], Image.Image]


def _jpeg(quality: int) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        held = io.BytesIO()
        picture.save(held, "JPEG", quality=quality)
        with Image.open(held) as again:
            return again.convert("RGB")

    return change


def _blurred(share_of_side: float) -> Change:
    return lambda picture: picture.filter(ImageFilter.GaussianBlur(share_of_side * min(picture.size)))


def _lit(factor: float) -> Change:
    return lambda picture: ImageEnhance.Brightness(picture).enhance(factor)


def _turned(degrees: float) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        mean_colour = tuple(int(v) for v in np.asarray(picture).reshape(-1, 3).mean(axis=0))
        return picture.rotate(degrees, Image.Resampling.BICUBIC, expand=degrees % 90 == 0, fillcolor=mean_colour)

    return change


def _cropped(part: float) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        across, down = part / 2.0 * picture.width, part / 2.0 * picture.height
        return picture.crop((int(across), int(down), int(picture.width - across), int(picture.height - down)))

    return change


# Family, what is done in words, and how. Blur is in parts of the shorter side: the same on every phone.
CHANGES: Final[tuple[tuple[str, str, Change], ...]] = (
    *(("JPEG", f"quality {q}", _jpeg(q)) for q in (95, 70, 50, 30)),
    *(("blur", f"sigma {100 * s:g} % of the side", _blurred(s)) for s in (0.004, 0.01, 0.02)),
    *(("brightness", f"x {f:g}", _lit(f)) for f in (0.5, 0.75, 1.25, 1.5)),
    *(("rotation", f"{d:g} degrees", _turned(d)) for d in (10, 90, 180)),
    *(("crop", f"{100 * c:g} % cut off each way", _cropped(c)) for c in (0.1, 0.2, 0.4)),
)


def disturb(
    served: Served, pictures: Sequence[Image.Image], kinds: NDArray[np.int64], patients: NDArray[Any]
) -> Iterator[dict[str, Any]]:
    """One row per change, the unchanged photos first: what it does to ranking, decisions and abstention."""
    sample, positive = Resampling.of(patients), kinds == 0
    plain: NDArray[np.float64] | None = None
    for family, level, change in (("none", "as taken", None), *CHANGES):
        changed = [picture if change is None else change(picture) for picture in pictures]
        pixels = np.stack([network_input(picture) for picture in changed])
        qualities: list[Quality] = [measure_quality(p, shorter_side=min(p.size)) for p in changed]
        outputs = served.outputs(pixels)
        p, answers = served.probabilities(outputs), served.answers(outputs, qualities)
        plain = p if plain is None else plain
        yield {
            "family": family,
            "level": level,
            "auroc": sample.measure(auroc(p[:, 0], positive)),
            "accuracy": sample.measure(share(p.argmax(axis=1) == kinds)),
            "classified": sample.measure(share(np.array([a.outcome == "classified" for a in answers]))),
            **_moved(p, plain, None if change is None else sample),
            "largest_shift": shown(float(np.abs(p - plain).max())),
        }


def _moved(p: NDArray[np.float64], plain: NDArray[np.float64], sample: Resampling | None) -> dict[str, Measure]:
    if sample is None:
        return dict.fromkeys(("flipped", "shift"), no_measure(len(p), "nothing was changed"))
    return {
        "flipped": sample.measure(share(p.argmax(axis=1) != plain.argmax(axis=1))),
        "shift": sample.measure(mean(np.abs(p - plain).max(axis=1))),
    }
