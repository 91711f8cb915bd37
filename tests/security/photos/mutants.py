"""Photos of every kind, altered by chance: what a broken disk, a broken program and a patient attacker might send."""

import functools
import random
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

from tests.unit.worker import heif_files
from tests.unit.worker import photo_files as files

_EXTREMES = (
    b"\0\0",
    b"\xff\xff",
    b"\x7f\xff",
    b"\x80\0",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\x01",
)
_MOST_CHANGES = 8


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Return a small photo of every kind that is taken."""
    photo = files.photo(160, 120)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    return (
        files.encoded(photo, exif=exif),
        files.encoded(photo, progressive=True),
        files.encoded(photo, restart_marker_blocks=3, subsampling=0),
        files.encoded(photo.convert("CMYK")),
        files.encoded(photo.convert("L"), progressive=True, optimize=True),
        files.encoded(photo, "MPO", save_all=True, append_images=[photo.reduce(2)]),
        files.encoded(photo, "PNG", exif=exif),
        files.encoded(photo.convert("P"), "PNG", transparency=3),
        files.encoded(deep, "PNG"),
        files.encoded(photo.convert("RGBA"), "PNG"),
        files.encoded(photo, "WEBP", exif=exif),
        files.encoded(photo.convert("RGBA"), "WEBP"),
        files.encoded(photo, "WEBP", lossless=True),
        files.encoded(photo.reduce(2), "WEBP", save_all=True, append_images=[files.photo(80, 60, 2)]),
        heif_files.stored("photo"),
        heif_files.stored("alpha"),
        heif_files.stored("deep"),
        heif_files.tiled(1, 2, turned=(heif_files.irot(1), heif_files.imir(0))),
    )


def mutant(seed: int, number: int) -> bytes:
    """Return the mutant of this number: the same for ever."""
    chance = random.Random(f"{seed}/{number}")
    data = chance.choice(seeds())
    for _ in range(chance.randint(1, _MOST_CHANGES)):
        data = chance.choice(_CHANGES)(data, chance)
    if data.startswith(b"\x89PNG") and chance.random() < 0.9:  # else the sums would keep the codec from all of it
        data = with_right_sums(data)
    return data


def with_right_sums(png: bytes) -> bytes:
    """Return the PNG with the sum of every chunk corrected, as far as its lengths lead."""
    out, pos = bytearray(png), 8
    while pos + 12 <= len(out):
        length = int.from_bytes(out[pos : pos + 4], "big")
        end = pos + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[pos + 4 : end]))
        pos = end + 4
    return bytes(out)


def _place(data: bytes, chance: random.Random) -> int:
    """Pick a byte, every other time one of the headers at the front."""
    most = len(data) if chance.random() < 0.5 else min(len(data), 700)
    return chance.randrange(max(1, most))


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + bytes(value ^ 1 << chance.randrange(8) for value in data[at : at + 1]) + data[at + 1 :]


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    at, count = _place(data, chance), chance.choice((1, 2, 4, 16, 64))
    return data[:at] + chance.randbytes(count) + data[at + count :]


def _extreme(data: bytes, chance: random.Random) -> bytes:
    at, value = _place(data, chance), chance.choice(_EXTREMES)
    return data[:at] + value + data[at + len(value) :]


def _remove(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + data[at + chance.choice((1, 2, 8, 100)) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    at, count = _place(data, chance), chance.choice((1, 2, 8, 100, 1000))
    return data[: at + count] + data[at : at + count] * chance.choice((1, 1, 3, 30)) + data[at + count :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return (
        data[:at]
        + chance.choice((chance.randbytes(chance.choice((1, 4, 40))), bytes(chance.choice((1, 40, 4000)))))
        + data[at:]
    )


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: _place(data, chance)] if chance.random() < 0.2 else data


def _cross(data: bytes, chance: random.Random) -> bytes:
    other = chance.choice(seeds())
    at, where = _place(data, chance), _place(other, chance)
    count = chance.choice((4, 30, 300))
    return data[:at] + other[where : where + count] + data[at + count :]


_CHANGES = (_flip, _flip, _overwrite, _extreme, _extreme, _remove, _repeat, _insert, _cut, _cross)
