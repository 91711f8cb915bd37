"""The bytes of one entry, held against what the directory says: its header, its size, its checksum.

At no time is more held than a piece of the packed bytes and a piece of what comes out, whatever the entry claims.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from worker.unzipping.directory import Entry, Source, find_field
from worker.unzipping.judging import DEFLATED, Judged
from worker.unzipping.reasons import EntryRefused

_HEADER: Final = struct.Struct("<4s5H3L2H")
_PIECE: Final = 128 << 10
_OUT: Final = 512 << 10
_ENCRYPTED: Final = 0x2041
_LATE: Final = 8  # sizes and checksum stand behind the data
_FULL_32: Final = 0xFFFFFFFF
_ZIP64: Final = 1
_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b\x08")


def read_entry(source: Source, judged: Judged) -> Iterator[bytes]:
    """Yield the entry's bytes; raises ``EntryRefused``, perhaps behind the last of them, and what the source raises."""
    entry = judged.entry
    start = _data_start(source, entry, judged.end)
    pieces = _inflate(_packed(source, start, entry.packed), entry) if entry.method == DEFLATED else None
    size = crc = 0
    for piece in pieces or _packed(source, start, entry.packed):
        if not size and piece.startswith(_MAGIC):
            raise EntryRefused("nested_archive")
        size += len(piece)
        if size > entry.size:
            raise EntryRefused("size_mismatch")
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != entry.size:
        raise EntryRefused("size_mismatch")
    if crc != entry.crc:
        raise EntryRefused("checksum_mismatch")


def _data_start(source: Source, entry: Entry, end: int) -> int:
    """Return where the packed bytes begin, once the entry's own header agrees with the directory."""
    head = source.read_at(entry.offset, _HEADER.size)
    if len(head) != _HEADER.size:
        raise EntryRefused("header_mismatch")
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _HEADER.unpack(head)
    names = source.read_at(entry.offset + _HEADER.size, name_length + extra_length)
    extra = names[name_length:]
    if _FULL_32 in (packed, size):
        long = find_field(extra, _ZIP64)
        if long is None or len(long) < 16:  # noqa: PLR2004  # both sizes, of eight bytes each
            raise EntryRefused("header_mismatch")
        size, packed = struct.unpack("<2Q", long[:16])
    told = (crc, packed, size)
    agrees = told == (entry.crc, entry.packed, entry.size) or (flags & _LATE and told == (0, 0, 0))
    if (
        magic != b"PK\x03\x04"
        or method != entry.method
        or flags & _ENCRYPTED
        or names[:name_length] != entry.raw_name
        or not agrees
    ):
        raise EntryRefused("header_mismatch")
    start: int = entry.offset + _HEADER.size + name_length + extra_length
    if start + entry.packed > end:
        raise EntryRefused("overlapping")
    return start


def _packed(source: Source, start: int, length: int) -> Iterator[bytes]:
    while length:
        piece = source.read_at(start, min(length, _PIECE))
        if not piece:
            raise EntryRefused("data_damaged")
        yield piece
        start, length = start + len(piece), length - len(piece)


def _inflate(packed: Iterator[bytes], entry: Entry) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left = entry.size + 1
    try:
        for piece in packed:
            rest = piece
            while not inflater.eof:
                out = inflater.decompress(rest, min(_OUT, left))
                rest = inflater.unconsumed_tail
                left -= len(out)
                if left <= 0:
                    raise EntryRefused("size_mismatch")
                if out:
                    yield out
                elif not rest:  # all that a piece has to give has come out
                    break
            if inflater.eof and (inflater.unused_data or rest):
                raise EntryRefused("size_mismatch")
    except zlib.error:
        raise EntryRefused("data_damaged") from None
    if not inflater.eof:
        raise EntryRefused("data_damaged")
