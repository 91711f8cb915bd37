"""Photos as phones take them: drawn skin, scaled up, with sensor noise, in files as large as a phone's."""

import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from training.synthetic import patient, render

_DRAWN = 768
_SEED = 20_261


@dataclass(frozen=True)
class Kind:
    """A class of photos; ``noise`` (standard deviation, 0-255) and ``quality`` (JPEG) set the size of the file."""

    name: str
    width: int
    height: int
    noise: float
    quality: int


LARGE = Kind("12 MP, 3.7 MB", 4032, 3024, 5.0, 90)
MEDIUM = Kind("12 MP, 1.4 MB", 4032, 3024, 2.0, 80)
SMALL = Kind("1 MP, 0.3 MB", 1152, 864, 2.0, 90)
TINY = Kind("256 px", 256, 256, 2.0, 85)


@cache
def photos(kind: Kind, count: int) -> tuple[bytes, ...]:
    """Return ``count`` different JPEGs, the same ones every time."""
    return tuple(_photo(kind, number) for number in range(count))


def _photo(kind: Kind, number: int) -> bytes:
    drawn = render(patient(_SEED, number % 2, number), 0, side=min(_DRAWN, kind.width))
    picture = Image.fromarray(drawn).resize((kind.width, kind.height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(number).standard_normal((kind.height, kind.width, 1), dtype=np.float32)
    pixels = np.clip(np.asarray(picture) + kind.noise * noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=kind.quality)
    return file.getvalue()


def kind_named(name: str) -> Kind:
    """Return the kind of that name."""
    return next(kind for kind in (LARGE, MEDIUM, SMALL, TINY) if kind.name == name)
