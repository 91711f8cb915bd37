"""Damage of the kinds that disks, transfers and programs do to a JPEG, made by chance and the same for one seed."""

import functools
import random
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.unit.worker import photo_files as files

Damage = Callable[[bytes, random.Random], bytes]

_SECTOR = 512
_HARMLESS = 0.5
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")

KINDS: dict[str, Damage] = {}
"""What breaks the stream of codes, by name: a strict reader can see it."""

QUIET: dict[str, Damage] = {}
"""What often leaves a stream that is valid too, of another picture: Huffman codes fall back into step."""


def _kind(kinds: dict[str, Damage]) -> Callable[[Damage], Damage]:
    def register(damage: Damage) -> Damage:
        kinds[damage.__name__] = damage
        return damage

    return register


@functools.cache
def photos() -> dict[str, bytes]:
    """Return JPEGs of every make: qualities, samplings, tables, restarts, progressive, grey, ink."""
    shapes, frame = files.photo(640, 480, 3), files.photo(800, 600, 4)
    ramp = Image.merge("RGB", [Image.linear_gradient("L").rotate(turn).resize((720, 540)) for turn in (0, 90, 180)])
    return {
        "plain": files.encoded(shapes, quality=90),
        "small": files.encoded(frame, quality=70),
        "smooth": files.encoded(Image.blend(ramp, files.photo(720, 540, 5), 0.4), quality=85),
        "full colour": files.encoded(shapes, quality=92, subsampling=0),
        "own tables": files.encoded(frame, quality=85, optimize=True),
        "restarts": files.encoded(shapes, quality=90, restart_marker_rows=1),
        "short restarts": files.encoded(frame, quality=80, restart_marker_blocks=7),
        "progressive": files.encoded(frame, quality=90, progressive=True),
        "progressive, full colour": files.encoded(shapes, quality=80, progressive=True, subsampling=0),
        "grey": files.encoded(frame.convert("L"), quality=85),
        "ink": files.encoded(shapes.convert("CMYK"), quality=85),
    }


def scans(jpeg: bytes) -> list[tuple[int, int]]:
    """Return where the coded data of each scan begins and ends."""
    found = []
    for start in re.finditer(rb"\xff\xda", jpeg):
        begin = start.end() + int.from_bytes(jpeg[start.end() : start.end() + 2], "big")
        end = _END_OF_SCAN.search(jpeg, begin)
        found.append((begin, end.start() if end else len(jpeg)))
    return found


def _piece(jpeg: bytes, size: int, chance: random.Random) -> int:
    """Pick where a piece of ``size`` bytes begins inside a scan, any byte of the coded data as likely as any other."""
    spans = scans(jpeg)
    begin, end = chance.choices(spans, [end - begin for begin, end in spans])[0]
    return chance.randrange(begin, max(begin + 1, end - size))


@_kind(KINDS)
def cut_off(jpeg: bytes, chance: random.Random) -> bytes:
    return jpeg[: chance.randrange(scans(jpeg)[0][0], len(jpeg) - 2)]


@_kind(KINDS)
def cut_off_and_ended(jpeg: bytes, chance: random.Random) -> bytes:
    return cut_off(jpeg[:-2], chance) + b"\xff\xd9"


@_kind(KINDS)
def sectors_zeroed(jpeg: bytes, chance: random.Random) -> bytes:
    size = _SECTOR * chance.choice((1, 1, 2, 8))
    at = _piece(jpeg, size, chance)
    return jpeg[:at] + bytes(min(size, len(jpeg) - at)) + jpeg[at + size :]


@_kind(KINDS)
def some_bytes_zeroed(jpeg: bytes, chance: random.Random) -> bytes:
    size = chance.randint(36, 200)
    at = _piece(jpeg, size, chance)
    return jpeg[:at] + bytes(size) + jpeg[at + size :]


@_kind(KINDS)
def sectors_lost(jpeg: bytes, chance: random.Random) -> bytes:
    size = _SECTOR * chance.choice((1, 1, 2, 8))
    at = _piece(jpeg, size, chance)
    return jpeg[:at] + jpeg[at + size :]


@_kind(KINDS)
def sectors_of_another_file(jpeg: bytes, chance: random.Random) -> bytes:
    size = _SECTOR * chance.choice((1, 1, 2, 8))
    at = _piece(jpeg, size, chance)
    text = b"the quick brown fox jumps over the lazy dog, and so on. " * 80
    return jpeg[:at] + chance.choice((chance.randbytes(size), text[:size])) + jpeg[at + size :]


@_kind(KINDS)
def restart_intervals_lost(jpeg: bytes, chance: random.Random) -> bytes:
    marks = [mark.start() for mark in _RESTART.finditer(jpeg, scans(jpeg)[0][0])]
    if len(marks) < 3:
        return sectors_lost(jpeg, chance)
    first = chance.randrange(len(marks) - 1)
    return jpeg[: marks[first]] + jpeg[marks[min(len(marks) - 1, first + chance.choice((1, 2, 5)))] :]


@_kind(KINDS)
def restart_intervals_repeated(jpeg: bytes, chance: random.Random) -> bytes:
    marks = [mark.start() for mark in _RESTART.finditer(jpeg, scans(jpeg)[0][0])]
    if len(marks) < 3:
        return sectors_repeated(jpeg, chance)
    first = chance.randrange(len(marks) - 1)
    return jpeg[: marks[first + 1]] + jpeg[marks[first] :]


@_kind(KINDS)
def sectors_repeated(jpeg: bytes, chance: random.Random) -> bytes:
    at = _piece(jpeg, _SECTOR, chance)
    return jpeg[: at + _SECTOR] + jpeg[at:]


@_kind(KINDS)
def scans_lost(jpeg: bytes, chance: random.Random) -> bytes:
    """Lose the last scans of a progressive JPEG whole, or a part of the last one; of another one its second half."""
    spans = scans(jpeg)
    if len(spans) == 1:
        begin, end = spans[0]
        return jpeg[: (begin + end) // 2] + b"\xff\xd9"
    begin, end = spans[-1]
    kept = chance.choice((spans[chance.randrange(len(spans) - 1)][1], chance.randrange(begin, end - 8)))
    return jpeg[:kept] + b"\xff\xd9"


@_kind(KINDS)
def size_altered(jpeg: bytes, chance: random.Random) -> bytes:
    """Alter the height or the width in the header, by so much that the number of blocks is another one."""
    at = jpeg.index(b"\xff\xc2" if b"\xff\xc2" in jpeg[:1000] else b"\xff\xc0") + chance.choice((5, 7))
    size = int.from_bytes(jpeg[at : at + 2], "big") ^ 1 << chance.randrange(4, 13)
    return jpeg[:at] + size.to_bytes(2, "big") + jpeg[at + 2 :]


@_kind(QUIET)
def bit_flipped(jpeg: bytes, chance: random.Random) -> bytes:
    at = _piece(jpeg, 1, chance)
    return jpeg[:at] + bytes([jpeg[at] ^ 1 << chance.randrange(8)]) + jpeg[at + 1 :]


@_kind(QUIET)
def byte_flipped(jpeg: bytes, chance: random.Random) -> bytes:
    at = _piece(jpeg, 1, chance)
    return jpeg[:at] + bytes([jpeg[at] ^ chance.randrange(1, 256)]) + jpeg[at + 1 :]


@_kind(QUIET)
def eight_bytes_overwritten(jpeg: bytes, chance: random.Random) -> bytes:
    at = _piece(jpeg, 8, chance)
    return jpeg[:at] + chance.choice((bytes(8), chance.randbytes(8))) + jpeg[at + 8 :]


@_kind(QUIET)
def few_bytes_lost(jpeg: bytes, chance: random.Random) -> bytes:
    size = chance.randint(1, 16)
    at = _piece(jpeg, size, chance)
    return jpeg[:at] + jpeg[at + size :]


@_kind(QUIET)
def sectors_swapped(jpeg: bytes, chance: random.Random) -> bytes:
    at = _piece(jpeg, 2 * _SECTOR, chance)
    middle, end = at + _SECTOR, at + 2 * _SECTOR
    return jpeg[:at] + jpeg[middle:end] + jpeg[at:middle] + jpeg[end:]


def harm(original: bytes, damaged: bytes, read: Callable[[bytes], NDArray[np.uint8] | None]) -> str:
    """Tell what came of one damage: ``flagged``, ``harmless``, ``another picture``, or ``none`` was done.

    ``read`` gives the network's input of a file, or None where it is rejected. Harmless is what moves that input by
    less than half a grey level of 255 on average.
    """
    if damaged == original:
        return "none"
    seen = read(damaged)
    if seen is None:
        return "flagged"
    whole = read(original)
    assert whole is not None
    return "harmless" if np.abs(seen.astype(int) - whole).mean() < _HARMLESS else "another picture"


def measure(
    kinds: dict[str, Damage], count: int, seed: int, read: Callable[[bytes], NDArray[np.uint8] | None]
) -> dict[str, Counter[str]]:
    """Return per kind how often each outcome of ``harm`` came, for ``count`` damages of each."""
    found: dict[str, Counter[str]] = {name: Counter() for name in kinds}
    for name, damage in kinds.items():
        for number in range(count):
            chance = random.Random(f"{seed}/{name}/{number}")
            original = chance.choice(list(photos().values()))
            found[name][harm(original, damage(original, chance), read)] += 1
    return found
