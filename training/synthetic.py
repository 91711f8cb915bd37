"""Owns the generator of synthetic skin photos: patients with traits, two looks of lesions, light, camera and JPEG."""

# ruff: noqa: PLR2004 - the numbers are the drawing
from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.stream import Field, Stream, blurred, fractal, standardised

GENERATOR_VERSION = "1"
POSITIVE, NEGATIVE = 0, 1
TONES = np.array(
    [(244, 208, 177), (231, 180, 143), (210, 158, 124), (186, 120, 81), (137, 87, 58), (84, 54, 40)], dtype=np.float64
)
_TRAITS, _SCENE, _PIXELS = 1, 2, 3
_REACH = 2.2  # radii around a lesion's centre beyond which its halo has faded


@dataclass(frozen=True)
class Patient:
    """What all photos of one synthetic patient share; sizes are fractions of the photo's side."""

    kind: int
    number: int
    seed: int
    tone: int
    stage: float
    size: float
    lesions: int
    sub: str
    hair: float
    camera: tuple[float, float, float]
    background: int


@dataclass(frozen=True)
class Lesion:
    """One lesion: kind, centre and radius as fractions of the side, and the wobble of its outline."""

    kind: str
    x: float
    y: float
    radius: float
    lobes: int
    phase: float


@dataclass(frozen=True)
class Canvas:
    """A photo being drawn: colour [s, s, 3] and height [s, s] change, the skin's pores and grain [s, s] do not."""

    colour: Field
    height: Field
    pores: Field
    grain: Field


def patient(
    seed: int, kind: int, number: int, *, tone: int | None = None, stage: float | None = None, look: str | None = None
) -> Patient:
    """The traits of patient `number` of class `kind` (0 positive, 1 negative), in a fixed order of draws.

    Skin tones are dealt in turn within a class, so that no class and no split is lighter than another. `look`, one of
    `LOOKS`, takes the place of the class's own; data sets of more classes give it, with kinds of their own numbers.
    """
    stream = Stream(seed, _TRAITS, kind, number)
    stream.uniform()
    drawn_stage = stream.beta(2.2, 1.2)
    size, lesions = stream.uniform(0.035, 0.06), stream.integer(5, 15)
    sub = ("chickenpox-like", "measles-like")[stream.integer(0, 1)] if kind == NEGATIVE else look or "mpox-like"
    hair = stream.uniform()
    red, green, blue = (float(value) for value in stream.normals(3))
    drawn = Patient(kind, number, seed, number % len(TONES), drawn_stage, size, lesions, sub, hair,
                    (red, green, blue), stream.seed())  # fmt: skip
    return replace(drawn, tone=drawn.tone if tone is None else tone, stage=drawn.stage if stage is None else stage)


# How many lesions for each that was drawn, their radii (mean and deviation, least, most), and of which kinds (up to
# which draw). Cowpox: few, large, with a dark scab; hand, foot and mouth disease: small and sparse; healthy: none.
LOOKS = {
    "mpox-like": (1.0, (1.0, 0.12), 0.6, 1.4, (("pustule", 0.92), ("macule", 1.0))),
    "chickenpox-like": (1.3, (0.85, 0.30), 0.4, 1.5, (("vesicle", 0.5), ("crust", 0.75), ("macule", 1.0))),
    "measles-like": (2.2, (1.0, 0.4), 0.4, 1.8, (("macule", 1.0),)),
    "cowpox-like": (0.35, (1.7, 0.25), 1.2, 2.4, (("crust", 0.7), ("pustule", 1.0))),
    "hfmd-like": (0.8, (0.55, 0.15), 0.3, 0.9, (("vesicle", 0.6), ("macule", 1.0))),
    "healthy": (0.0, (1.0, 0.0), 1.0, 1.0, (("macule", 1.0),)),
}


def _lesions(who: Patient, scene: Stream) -> list[Lesion]:
    share, spread, low, high, kinds = LOOKS[who.sub]
    found = []
    for _ in range(round(share * who.lesions)):
        draw = scene.uniform()
        kind = next(name for name, until in kinds if draw <= until)
        scale = min(max(spread[0] + spread[1] * scene.normal(), low), high)
        x, y = scene.uniform(0.06, 0.94), scene.uniform(0.06, 0.94)
        found.append(Lesion(kind, x, y, who.size * scale, scene.integer(2, 4), scene.uniform(0.0, 2.0 * math.pi)))
    return found


def _toward(colour: Field, goal: Field, weight: Field) -> Field:
    return colour + (goal - colour) * weight[..., None]


def _paint(lesion: Lesion, who: Patient, amp: float, canvas: Canvas) -> None:
    """Draws one lesion, touching only the window that it can reach."""
    colour, height = canvas.colour, canvas.height
    side = height.shape[0]
    reach = lesion.radius * _REACH * 1.3 * side
    top, left = (max(0, int(c * side - reach)) for c in (lesion.y, lesion.x))
    bottom, right = (min(side, math.ceil(c * side + reach) + 1) for c in (lesion.y, lesion.x))
    window = np.s_[top:bottom, left:right]
    down, across = np.mgrid[top:bottom, left:right] / side
    dy, dx = down + 0.5 / side - lesion.y, across + 0.5 / side - lesion.x
    outline = 1.0 + 0.10 * np.sin(lesion.lobes * np.arctan2(dy, dx) + lesion.phase) + 0.04 * canvas.grain[window]
    d = np.hypot(dx, dy) / (lesion.radius * outline)
    inside = 1.0 / (1.0 + np.exp(np.clip(9.0 * (d - 1.0), -50.0, 50.0)))
    halo = np.where(d > 0.6, np.exp(-(((d - 1.0) / 0.45) ** 2)), 0.0)
    dome = np.sqrt(np.maximum(0.0, 1.0 - d**2))
    tone, skin, pore = TONES[who.tone], colour[window], canvas.pores[window]
    red = skin * (np.array([0.92, 0.62, 0.62]) if who.tone >= 4 else np.array([1.05, 0.62, 0.60]))
    if lesion.kind == "pustule":
        skin = _toward(skin, red, 0.55 * halo)
        skin = _toward(skin, tone * 1.08 + np.array([18.0, 14.0, 6.0]), 0.65 * amp * inside)
        skin = _toward(skin, tone * np.array([0.55, 0.38, 0.33]), 0.60 * amp * np.exp(-((d / 0.30) ** 2)))
        height[window] += 1.6 * amp * (dome - 0.8 * np.exp(-((d / 0.33) ** 2)))
    elif lesion.kind == "vesicle":
        skin = _toward(_toward(skin, red, 0.75 * halo), tone * 1.12 + 10.0, 0.25 * inside)
        height[window] += 0.9 * dome
    elif lesion.kind == "crust":
        scab = tone * np.array([0.48, 0.33, 0.26]) * (1.0 + 0.2 * pore)[..., None]
        skin = _toward(skin, scab, 0.7 * inside)
        height[window] += 0.4 * inside * (1.0 + pore)
    else:
        skin = _toward(skin, red, 0.6 * inside)
        height[window] += 0.15 * inside
    colour[window] = skin


def _lit(canvas: Canvas, who: Patient, scene: Stream) -> Field:
    """Shades by a light from the side, then tints as the patient's camera does."""
    side = canvas.height.shape[0]
    angle = scene.uniform(0.0, 2.0 * math.pi)
    gy, gx = (slope * side / 40.0 for slope in np.gradient(blurred(canvas.height, 1.2)))
    shade = 1.0 - 0.9 * (gx * math.cos(angle) + gy * math.sin(angle)) / (1.0 + gx**2 + gy**2)
    place = (np.arange(side) + 0.5) / side - 0.5
    slant = place[None, :] * math.cos(angle) + place[:, None] * math.sin(angle)
    fall = 1.0 + 0.18 * slant + 0.04 * fractal(scene, side, grid=2, octaves=2)
    tint = 1.0 + 0.05 * np.array(who.camera) + 0.02 * scene.normals(3)
    lit: Field = canvas.colour * (shade * fall)[..., None] * tint
    return lit


def _hairs(picture: Field, who: Patient, scene: Stream) -> Field:
    if who.hair <= 0.55:
        return picture
    side = picture.shape[0]
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    direction = scene.uniform(0.0, math.pi)
    for _ in range(int(25 * who.hair)):
        x, y, length = scene.uniform() * side, scene.uniform() * side, scene.uniform(0.08, 0.25) * side
        angle = direction + scene.uniform(-0.35, 0.35)
        pen.line((x, y, x + length * math.cos(angle), y + length * math.sin(angle)), fill=255, width=1)
    return _toward(picture, TONES[who.tone] * 0.25, 0.59 * np.asarray(mask, dtype=np.float64) / 255.0)


def render(who: Patient, image: int, *, side: int = 224, ambiguity: float = 1.0) -> NDArray[np.uint8]:
    """Photo `image` of a patient as RGB [side, side, 3]; the same scene whatever the side.

    `ambiguity` 0 draws every lesion in full; 1 lets early stages of the two looks resemble each other.
    """
    scene = Stream(who.seed, _SCENE, who.kind, who.number, image)
    pixels = Stream(who.seed, _PIXELS, who.kind, who.number, image, side)
    drawn, spread = _scene(scene)
    amp = min(max(1.25 * who.stage - 0.12 * ambiguity + drawn, 0.05), 1.0) if ambiguity else 1.0
    mottle = fractal(Stream(who.background), side, grid=3, octaves=4)
    pores = blurred(pixels.normals(side, side), 1.0)
    grain = pixels.normals(side, side)
    tone = TONES[who.tone] * (1.0 + spread)
    colour = tone * (1.0 + 0.035 * mottle)[..., None] + (3.0 * standardised(pores))[..., None]
    canvas = Canvas(colour, 0.15 * pores, pores, grain)
    for lesion in _lesions(who, scene):
        _paint(lesion, who, amp, canvas)
    picture = _hairs(_lit(canvas, who, scene), who, scene)
    picture = blurred(picture, scene.uniform(0.3, 1.1)) + 3.0 * pixels.normals(side, side, 3)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def lesion_mask(who: Patient, image: int, *, side: int = 224) -> NDArray[np.bool_]:
    """Where photo `image` of a patient shows a lesion [side, side], halos left out."""
    scene = Stream(who.seed, _SCENE, who.kind, who.number, image)
    _scene(scene)
    down, across = (np.mgrid[:side, :side] + 0.5) / side
    found = np.zeros((side, side), dtype=np.bool_)
    for lesion in _lesions(who, scene):
        dy, dx = down - lesion.y, across - lesion.x
        outline = 1.0 + 0.10 * np.sin(lesion.lobes * np.arctan2(dy, dx) + lesion.phase)
        found |= np.hypot(dx, dy) <= lesion.radius * outline
    return found


def _scene(scene: Stream) -> tuple[float, Field]:
    """What is drawn of a scene before its lesions: how far the stage is off, and the skin's colour [3]."""
    return 0.08 * scene.normal(), 0.03 * scene.normals(3)


def jpeg(pixels: NDArray[np.uint8], *, quality: int = 90) -> bytes:
    """A JPEG of the photo with the marker "SYNTHETIC" as comment and as a faint tag in the lower left corner."""
    picture = Image.fromarray(pixels)
    tag = Image.new("L", picture.size, 0)
    ImageDraw.Draw(tag).text((2, picture.height - 12), "SYNTHETIC", fill=40)
    picture.paste((255, 255, 255), mask=tag)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, comment=b"SYNTHETIC")
    return out.getvalue()
