"""HEIC files, whole and hostile, put together from a few small ones that were encoded once from drawn pictures.

The encoder (x265) is under the GPL and not needed here: what it made of ``photo_files.corners`` and ``photo`` lies in
``heic/``, and everything else is made of its pieces, box by box (ISO/IEC 14496-12, ISO/IEC 23008-12).
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = Path(__file__).parent / "heic"


def stored(name: str) -> bytes:
    """One of the files that were encoded once."""
    return (_FOLDER / f"{name}.heic").read_bytes()


@dataclass
class Item:
    """An item: its kind and bytes, its properties as boxes, and the items it is made of or tells about."""

    kind: bytes
    data: bytes
    properties: list[bytes] = field(default_factory=list)
    refers: dict[bytes, list[int]] = field(default_factory=dict)


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def full(kind: bytes, *content: bytes, version: int = 0) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *content)


def ispe(width: int, height: int) -> bytes:
    return full(b"ispe", struct.pack(">II", width, height))


def irot(quarters: int) -> bytes:
    """Turn by so many quarters against the clock (23008-12, 6.5.10)."""
    return box(b"irot", bytes([quarters]))


def imir(axis: int) -> bytes:
    """Mirror: 0 top to bottom, 1 left to right (23008-12, 6.5.12)."""
    return box(b"imir", bytes([axis]))


def piece(name: str) -> Item:
    """The coded picture of a stored file, with its decoder's configuration and size alone."""
    data = stored(name)
    at = data.index(b"hvcC") - 4
    configuration = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    at = data.index(b"ispe") - 4
    start = data.index(b"mdat") + 4
    return Item(b"hvc1", data[start:], [configuration, data[at : at + 20]])


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """What a grid says of itself, in 16 or 32 bits."""
    wide = max(width, height) > 0xFFFF
    return bytes([0, wide, (rows - 1) & 255, (columns - 1) & 255]) + struct.pack(
        ">II" if wide else ">HH", width, height
    )


def heic(
    items: dict[int, Item], *, primary: int = 1, brands: bytes = b"heic\0\0\0\0mif1heic", more: bytes = b""
) -> bytes:
    """The file of these items; ``more`` are boxes behind the rest."""
    properties = list(dict.fromkeys(one for item in items.values() for one in item.properties))
    links = [(name, [properties.index(one) + 1 for one in item.properties]) for name, item in items.items()]
    ipma = b"".join(
        struct.pack(f">HB{len(those)}H", name, len(those), *(one | 0x8000 for one in those)) for name, those in links
    )
    iref = b"".join(
        box(kind, struct.pack(f">HH{len(those)}H", name, len(those), *those))
        for name, item in items.items()
        for kind, those in item.refers.items()
    )
    entries = b"".join(
        full(b"infe", struct.pack(">HH4s", name, 0, item.kind), b"\0", version=2) for name, item in items.items()
    )
    front = box(b"ftyp", brands)
    grids = [item.data for item in items.values() if item.kind == b"grid"]

    def meta(start: int) -> bytes:
        places, at, within = bytearray(), start, 0
        for name, item in items.items():
            if item.kind == b"grid":  # as phones do, what it says of itself lies among the boxes
                places += struct.pack(">HHHHII", name, 1, 0, 1, within, len(item.data))
                within += len(item.data)
                continue
            places += struct.pack(
                ">HHHHII" if grids else ">HHHII", name, *([0] if grids else []), 0, 1, at, len(item.data)
            )
            at += len(item.data)
        return full(
            b"meta",
            full(b"hdlr", bytes(4), b"pict", bytes(13)),
            full(b"pitm", struct.pack(">H", primary)),
            full(b"iloc", b"\x44\0", struct.pack(">H", len(items)), bytes(places), version=int(bool(grids))),
            full(b"iinf", struct.pack(">H", len(items)), entries),
            _iprp(properties, len(links), ipma),
            full(b"iref", iref),
            *([box(b"idat", *grids)] if grids else []),
        )

    start = len(front) + len(meta(0)) + 8
    return front + meta(start) + box(b"mdat", *(item.data for item in items.values() if item.kind != b"grid")) + more


def _iprp(properties: list[bytes], count: int, links: bytes) -> bytes:
    return box(b"iprp", box(b"ipco", *properties), box(b"ipma", b"\0\0\0\x01", struct.pack(">I", count), links))


def tiled(rows: int, columns: int, *, turned: tuple[bytes, ...] = (), name: str = "tile", side: int = 512) -> bytes:
    """A photo as phones write it: a grid of pieces, each of them the same here."""
    tiles = {n: piece(name) for n in range(2, rows * columns + 2)}
    width, height = columns * side, rows * side
    whole = Item(b"grid", grid(rows, columns, width, height), [ispe(width, height), *turned], {b"dimg": list(tiles)})
    return heic({1: whole, **tiles})
