# ruff: noqa: PLR2004 -- the numbers are those of the format, and named by the sections cited
"""What the boxes of a HEIC say about its picture, read with bounds before libheif sees the file.

Sections are those of ISO/IEC 14496-12 (boxes, items) and ISO/IEC 23008-12 (HEIF). Taken is what cameras write: one
primary picture, coded as HEVC in one piece or as a grid of such pieces.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.decoding.outcomes import Unusable

_MAX_BOXES = 4096
_MAX_META = 16 << 20
_MAX_ITEMS = 1000  # a phone's photo of 48 megapixels has some 300: tiles, thumbnail, depth, gain map, metadata
_MAX_EXTENTS = 4096
_MAX_TILES = 512
_LEAST_TILES = 1 << 22
_SEQUENCES = {b"msf1", b"hevc", b"hevx", b"heis", b"avis"}
_STILLS = {b"heic", b"heix", b"mif1"}
_IN_NO_UNIT = (b"\0\0\0", b"\0\0\1", b"\0\0\2")
_KIND = "The file is a HEIF of a kind that cameras do not write."
_DAMAGED = "The HEIC is damaged or cut off."


@dataclass(slots=True)
class _Items:
    """What the ``meta`` box tells of the items of a file."""

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    tiles: dict[int, tuple[int, ...]] = field(default_factory=dict)
    places: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Method of construction, offset and length of each extent."""
    inside: bytes = b""
    """The ``idat`` box, where small items lie."""


def is_heif(data: bytes) -> bool:
    """Whether the file says that it is a picture in HEIF's boxes, of which AVIF is not taken."""
    brands = _brands(data)
    return not brands & {b"avif", b"avis"} and bool(brands & (_STILLS | _SEQUENCES))


def heif_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height of the primary picture, before any rotation. Raises ``Unusable``."""
    try:
        return _size(data, max_pixels)
    except (struct.error, IndexError, KeyError) as error:
        raise Unusable("damaged", _DAMAGED) from error


def _size(data: bytes, max_pixels: int) -> tuple[int, int]:
    items = _read_items(data, *_meta(data))
    places = [place for of_item in items.places.values() for place in of_item]
    if any(offset + length > (len(items.inside) if method else len(data)) for method, offset, length in places):
        raise Unusable("damaged", _DAMAGED)
    if sum(length for _, _, length in places) > 2 * len(data):  # the same bytes again and again
        raise Unusable("unknown_type", _KIND)
    for width, height in items.sizes.values():
        if width * height > max_pixels:
            raise Unusable("too_many_pixels", f"A picture in the file has {width} x {height} pixels.")
    if items.kinds[items.primary] == b"grid":
        _check_grid(data, items)
        pieces = items.tiles[items.primary]
    else:
        pieces = (items.primary,)
    if any(items.kinds[piece] != b"hvc1" for piece in pieces):
        raise Unusable("unknown_type", _KIND)
    if any(_has_hole(_content(data, items, piece)) for piece in set(pieces)):
        raise Unusable("damaged", _DAMAGED)
    return items.sizes[items.primary]


def _meta(data: bytes) -> tuple[int, int]:
    """Where the boxes about the items begin and end."""
    if data[8:12] in _SEQUENCES:
        raise Unusable("unsupported_frames")
    found = []
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"moov":
            raise Unusable("unsupported_frames")
        if kind == b"meta":
            found.append((start + 4, end))
    if len(found) != 1 or found[0][1] - found[0][0] > _MAX_META:
        raise Unusable("damaged", _DAMAGED)
    return found[0]


def _content(data: bytes, items: _Items, item: int) -> bytes:
    pieces = [(items.inside if method else data)[at : at + length] for method, at, length in items.places[item]]
    return b"".join(pieces)


def _has_hole(coded: bytes) -> bool:
    """Whether a coded picture is not made of whole NAL units, or holds what none may (ITU-T H.265, 7.4.2).

    Two zero bytes are followed by a number above 2 everywhere inside of a unit: where a disk or a transfer has lost
    bytes to zeros they are not. libde265 would make something up there, and say nothing.
    """
    at = 0
    while at < len(coded):
        length = int.from_bytes(coded[at : at + 4], "big")
        at += 4
        if length < 2 or at + length > len(coded) or any(coded.find(bad, at, at + length) >= 0 for bad in _IN_NO_UNIT):
            return True
        at += length
    return not coded


def _brands(data: bytes) -> set[bytes]:
    """The brands of the ``ftyp`` box (14496-12, 4.3), as far as they are few."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))}


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box (14496-12, 4.2). What follows the last whole one is damage."""
    for _ in range(_MAX_BOXES):
        if start == end:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            length, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        elif length == 0:
            length = end - start
        if length < head or start + length > end:
            raise Unusable("damaged", _DAMAGED)
        yield kind, start + head, start + length
        start += length
    raise Unusable("metadata_too_large")


def _read_items(data: bytes, start: int, end: int) -> _Items:
    """Read the ``meta`` box (14496-12, 8.11)."""
    items = _Items()
    for kind, at, stop in _boxes(data, start, end):
        if kind == b"pitm":
            items.primary = int.from_bytes(data[at + 4 : at + (8 if data[at] else 6)], "big")
        elif kind == b"iinf":
            items.kinds = _kinds(data, at, stop)
        elif kind == b"iprp":
            items.sizes = _sizes(data, at, stop)
        elif kind == b"iref":
            items.tiles = _tiles(data, at, stop)
        elif kind == b"iloc":
            items.places = _places(data, at, stop)
        elif kind == b"idat":
            items.inside = data[at:stop]
    return items


def _kinds(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """The type of each item (14496-12, 8.11.6)."""
    kinds: dict[int, bytes] = {}
    for entry, at, _ in _boxes(data, start + (8 if data[start] else 6), end):
        if entry == b"infe" and data[at] >= 2:
            wide = 4 if data[at] > 2 else 2
            kinds[int.from_bytes(data[at + 4 : at + 4 + wide], "big")] = data[at + 6 + wide : at + 10 + wide]
    if len(kinds) > _MAX_ITEMS:
        raise Unusable("metadata_too_large")
    return kinds


def _tiles(data: bytes, start: int, end: int) -> dict[int, tuple[int, ...]]:
    """What each derived picture is made of, in order (14496-12, 8.11.12)."""
    one = "I" if data[start] else "H"
    wide = struct.calcsize(one)
    tiles: dict[int, tuple[int, ...]] = {}
    for entry, at, _ in _boxes(data, start + 4, end):
        if entry == b"dimg":
            count = int.from_bytes(data[at + wide : at + wide + 2], "big")
            owner, _, *parts = struct.unpack_from(f">{one}H{count}{one}", data, at)
            tiles[owner] = tuple(parts)
    return tiles


def _sizes(data: bytes, start: int, end: int) -> dict[int, tuple[int, int]]:
    """The ``ispe`` property of each item (23008-12, 6.5.3 and 9.3)."""
    extents: list[tuple[int, int] | None] = [None]
    sizes: dict[int, tuple[int, int]] = {}
    for kind, at, stop in _boxes(data, start, end):
        if kind == b"ipco":
            for entry, begin, _ in _boxes(data, at, stop):
                extents.append(struct.unpack_from(">II", data, begin + 4) if entry == b"ispe" else None)
        elif kind == b"ipma":
            item_wide, wide = (4 if data[at] else 2), (2 if data[at + 3] & 1 else 1)
            pos = at + 8
            for _ in range(min(int.from_bytes(data[at + 4 : at + 8], "big"), _MAX_BOXES)):
                item = int.from_bytes(data[pos : pos + item_wide], "big")
                count = data[pos + item_wide]
                pos += item_wide + 1
                for _ in range(count):
                    index = int.from_bytes(data[pos : pos + wide], "big") & (0x7FFF if wide == 2 else 0x7F)
                    pos += wide
                    if extent := extents[index]:
                        sizes[item] = extent
    return sizes


def _places(data: bytes, start: int, end: int) -> dict[int, list[tuple[int, int, int]]]:
    """Where the content of each item lies (14496-12, 8.11.3)."""
    version, sizes = data[start], int.from_bytes(data[start + 4 : start + 6], "big")
    offset_wide, length_wide, base_wide, index_wide = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    pos, extents = start + 6, 0
    places: dict[int, list[tuple[int, int, int]]] = {}

    def number(wide: int) -> int:
        nonlocal pos
        if pos + wide > end:
            raise Unusable("damaged", _DAMAGED)
        pos += wide
        return int.from_bytes(data[pos - wide : pos], "big")

    for _ in range(min(number(4 if version == 2 else 2), _MAX_ITEMS + 1)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)  # another file: none is ever opened
        base, count = number(base_wide), number(2)
        extents += count
        if extents > _MAX_EXTENTS or method > 1:
            raise Unusable("unknown_type", _KIND)
        found = places[item] = []
        for _ in range(count):
            number(index_wide if version else 0)
            found.append((method, base + number(offset_wide), number(length_wide)))
    return places


def _check_grid(data: bytes, items: _Items) -> None:
    """A grid has as many pieces as it says, each coded by itself, none much beyond its edges (23008-12, 6.6.2.3)."""
    [(method, offset, length)] = items.places[items.primary][:1]
    config = (items.inside if method else data)[offset : offset + length]
    wide = 4 if config[1] & 1 else 2
    rows, columns = config[2] + 1, config[3] + 1
    size = struct.unpack_from(">II" if wide == 4 else ">HH", config, 4)
    tiles = items.tiles[items.primary]
    if len(tiles) != rows * columns or size != items.sizes[items.primary]:
        raise Unusable("damaged", _DAMAGED)
    if len(tiles) > _MAX_TILES or any(items.kinds[tile] != b"hvc1" for tile in tiles):
        raise Unusable("unknown_type", _KIND)
    pixels = sum(items.sizes[tile][0] * items.sizes[tile][1] for tile in tiles)
    if pixels > max(_LEAST_TILES, 2 * size[0] * size[1]):
        raise Unusable("damaged", _DAMAGED)
