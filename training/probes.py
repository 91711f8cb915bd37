"""Owns pictures that show no skin: what the demo network must not judge, and is measured on."""

# ruff: noqa: PLR2004 - the numbers are the drawing
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.stream import Stream, fractal

FAMILIES = ("noise", "blank", "gradient", "shapes", "stripes", "text")
_PROBES = 5


def probe(seed: int, family: str, number: int, *, side: int = 224) -> NDArray[np.uint8]:
    """Probe `number` of a family as RGB [side, side, 3], the same on every run."""
    stream = Stream(seed, _PROBES, FAMILIES.index(family), number)
    match family:
        case "noise":
            drawn = 255.0 * stream.uniforms(side * side * 3).reshape(side, side, 3)
        case "blank":
            drawn = _colour(stream) + 1.5 * stream.normals(side, side, 3)
        case "gradient":
            across = np.linspace(0.0, 1.0, side)
            weight = np.clip(
                0.5 + (across[None, :] - 0.5) * stream.normal() + (across[:, None] - 0.5) * stream.normal(), 0, 1
            )
            drawn = _colour(stream) + (_colour(stream) - _colour(stream)) * weight[..., None]
        case "shapes":
            drawn = _scene(stream, side)
        case "stripes":
            down, across = np.mgrid[:side, :side] / side
            angle, waves = stream.uniform(0.0, np.pi), stream.uniform(4.0, 30.0)
            bright = np.sin(2 * np.pi * waves * (across * np.cos(angle) + down * np.sin(angle))) > 0
            drawn = np.where(bright[..., None], _colour(stream), _colour(stream))
        case _:
            drawn = _page(stream, side)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def _colour(stream: Stream) -> NDArray[np.float64]:
    return 255.0 * stream.uniforms(3)


def _ink(stream: Stream) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in _colour(stream))
    return red, green, blue


def _scene(stream: Stream, side: int) -> NDArray[np.float64]:
    """A sky, a ground and a handful of boxes and discs: a landscape as a child would build it."""
    horizon = stream.uniform(0.35, 0.7) * side
    picture = Image.new("RGB", (side, side), _ink(stream))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, horizon, side, side), fill=_ink(stream))
    for _ in range(stream.integer(4, 9)):
        x, y, width, height = (stream.uniform() * side, stream.uniform() * side,
                               stream.uniform(0.08, 0.4) * side, stream.uniform(0.08, 0.4) * side)  # fmt: skip
        draw = pen.ellipse if stream.uniform() < 0.5 else pen.rectangle
        draw((x, y, x + width, y + height), fill=_ink(stream), outline=_ink(stream))
    texture = 6.0 * fractal(stream, side, grid=4, octaves=3)
    return np.asarray(picture, dtype=np.float64) + texture[..., None]


def _page(stream: Stream, side: int) -> NDArray[np.float64]:
    """A page of writing: dark dashes in lines on light paper."""
    picture = Image.new("RGB", (side, side), (245, 243, 238))
    pen = ImageDraw.Draw(picture)
    step = stream.uniform(0.035, 0.07) * side
    y = 0.06 * side
    while y < 0.94 * side:
        x = 0.06 * side
        while x < 0.9 * side:
            word = stream.uniform(0.02, 0.12) * side
            pen.rectangle((x, y, min(x + word, 0.94 * side), y + 0.4 * step), fill=(30, 30, 36))
            x += word + 0.02 * side
        y += step
    return np.asarray(picture, dtype=np.float64)
