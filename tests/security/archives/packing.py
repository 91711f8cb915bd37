"""Archives made byte by byte, so that they can say what no tool would: every field of every record can lie."""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

STORED, DEFLATED = 0, 8


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@dataclass
class Packed:
    """One entry as the directory will tell of it, and what differs in its own header."""

    name: bytes
    data: bytes
    method: int = STORED
    packed: bytes | None = None
    flags: int = 0
    mode: int = 0o100644
    crc: int | None = None
    size: int | None = None
    packed_size: int | None = None
    offset: int | None = None
    extra: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The bytes as they lie in the archive."""
        if self.packed is not None:
            return self.packed
        return deflate(self.data) if self.method == DEFLATED else self.data

    def fields(self) -> dict[str, Any]:
        return {
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.data) if self.crc is None else self.crc,
            "packed_size": len(self.body) if self.packed_size is None else self.packed_size,
            "size": len(self.data) if self.size is None else self.size,
            "name": self.name,
            "extra": b"",
        }


def local_header(entry: Packed) -> bytes:
    told = entry.fields() | entry.local
    head = struct.pack(
        "<4s5H3L2H", b"PK\x03\x04", 20, told["flags"], told["method"], 0, 0, told["crc"], told["packed_size"],
        told["size"], len(told["name"]), len(told["extra"]),
    )  # fmt: skip
    return head + bytes(told["name"]) + bytes(told["extra"])


def central_header(entry: Packed, offset: int) -> bytes:
    told = entry.fields()
    return (
        struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            0x031E,
            20,
            told["flags"],
            told["method"],
            0,
            0,
            told["crc"],
            told["packed_size"],
            told["size"],
            len(entry.name),
            len(entry.extra),
            0,
            0,
            0,
            entry.mode << 16,
            offset if entry.offset is None else entry.offset,
        )
        + entry.name
        + entry.extra
    )


def end_record(count: int, size: int, start: int, comment: bytes = b"", disk: int = 0) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", disk, disk, count, count, size, start, len(comment)) + comment


def end_record_64(
    count: int, size: int, start: int, place: int, *, length: int = 44, locator: int | None = None
) -> bytes:
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", length, 45, 45, 0, 0, count, count, size, start)
    return record + struct.pack("<4sLQL", b"PK\x06\x07", 0, place if locator is None else locator, 1)


def pack(*entries: Packed, prefix: bytes = b"", shifted: bool = False, **end: Any) -> bytes:
    """Return an archive; ``end`` replaces what its last record says.

    ``shifted`` leaves the prefix out of all offsets, as when something is put before a finished archive.
    """
    archive = bytearray(prefix)
    before = len(prefix) if shifted else 0
    offsets = []
    for entry in entries:
        offsets.append(len(archive) - before)
        archive += local_header(entry) + entry.body
    start = len(archive)
    for entry, offset in zip(entries, offsets, strict=True):
        archive += central_header(entry, offset)
    told = {"count": len(entries), "size": len(archive) - start, "start": start - before}
    return bytes(archive) + end_record(**(told | end))
