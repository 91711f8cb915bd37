"""The directory of a zip archive, found and read with every bound checked before anything is allocated for it.

Our own reader, of APPNOTE 6.3.10, sections 4.3.6 to 4.5.3: the standard library's takes a directory of any size, a
beginning that is not the archive's, entries that overlap, and the last of several ends. Here all that the file says of
itself must fit together to the byte, or the archive is refused.
"""

import struct
from dataclasses import dataclass
from typing import Final, Protocol

from worker.unzipping.reasons import ArchiveRefused, Limits

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_FIELD: Final = struct.Struct("<2H")
_LONGEST_COMMENT: Final = 0xFFFF
_MOST_DIRECTORY: Final = 64 << 20
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_ZIP64: Final = 1
_UTF_8: Final = 0x800


class Source(Protocol):
    """The archive's bytes."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return that many bytes from there on; fewer only where the archive ends. Raises ``StorageAway``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says of one entry. ``is_sound`` is False where it contradicts itself already."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    mode: int
    is_sound: bool


@dataclass(frozen=True, slots=True)
class Directory:
    """The entries in their order, and where the directory begins: no entry may reach beyond."""

    start: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class _End:
    disks: bool
    count: int
    size: int
    start: int
    position: int


def read_directory(source: Source, limits: Limits) -> Directory:
    """Return the directory; raises ``ArchiveRefused`` and whatever the source raises."""
    end = _find_end(source)
    if end.disks:
        raise ArchiveRefused("archive_split")
    if end.start + end.size != end.position:
        raise ArchiveRefused("archive_damaged")
    if end.count > limits.entries:
        raise ArchiveRefused("archive_too_many_entries")
    if end.size > _MOST_DIRECTORY or end.size < end.count * _ENTRY.size:
        raise ArchiveRefused("archive_damaged")
    data = source.read_at(end.start, end.size)
    if len(data) != end.size:
        raise ArchiveRefused("archive_damaged")
    return Directory(end.start, _parse(data, end.count))


def _find_end(source: Source) -> _End:
    begin = max(0, source.size - _END.size - _LONGEST_COMMENT)
    tail = source.read_at(begin, source.size - begin)
    found = [
        place
        for place in _places(tail, b"PK\x05\x06")
        # The comment, which may hold anything, ends where the file ends. Two ends would be two archives in one.
        if place + _END.size <= len(tail)
        and place + _END.size + int.from_bytes(tail[place + 20 : place + 22], "little") == len(tail)
    ]
    if len(found) != 1:
        raise ArchiveRefused("archive_damaged")
    _, disk, first_disk, here, count, size, start, _ = _END.unpack_from(tail, found[0])
    end = _End(disk != first_disk or disk != 0 or here != count, count, size, start, begin + found[0])
    locator = tail[max(0, found[0] - _LOCATOR.size) : found[0]]
    if locator.startswith(b"PK\x06\x07") and len(locator) == _LOCATOR.size:
        return _find_end_64(source, end, locator)
    return end


def _find_end_64(source: Source, end: _End, locator: bytes) -> _End:
    _, disk, place, disks = _LOCATOR.unpack(locator)
    before = end.position - _LOCATOR.size
    if place + _END_64.size > before:
        raise ArchiveRefused("archive_damaged")
    record = source.read_at(place, _END_64.size)
    if len(record) != _END_64.size:
        raise ArchiveRefused("archive_damaged")
    magic, length, _, _, this_disk, first_disk, here, count, size, start = _END_64.unpack(record)
    if magic != b"PK\x06\x06" or place + 12 + length != before:
        raise ArchiveRefused("archive_damaged")
    # What the short record can say it must say too.
    for short, long, full in ((end.count, count, _FULL_16), (end.size, size, _FULL_32), (end.start, start, _FULL_32)):
        if short not in (full, long):
            raise ArchiveRefused("archive_damaged")
    is_split = disk != 0 or disks > 1 or this_disk != 0 or first_disk != 0 or here != count
    return _End(is_split, count, size, start, place)


def _places(data: bytes, magic: bytes) -> list[int]:
    places = []
    place = data.find(magic)
    while place >= 0:
        places.append(place)
        place = data.find(magic, place + 1)
    return places


def _parse(data: bytes, count: int) -> list[Entry]:
    entries = []
    place = 0
    for _ in range(count):
        if place + _ENTRY.size > len(data):
            raise ArchiveRefused("archive_damaged")
        (magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, disk, _, outer,
         offset) = _ENTRY.unpack_from(data, place)  # fmt: skip
        behind_name = place + _ENTRY.size + name_length
        following = behind_name + extra_length + comment_length
        if magic != b"PK\x01\x02" or following > len(data):
            raise ArchiveRefused("archive_damaged")
        raw_name = data[place + _ENTRY.size : behind_name]
        sizes = (size, packed, offset)
        if _FULL_32 in sizes or disk == _FULL_16:
            long = _long_sizes(data[behind_name : behind_name + extra_length], sizes, disk)
        else:
            long = (*sizes, disk)
        size, packed, offset, disk = long or (0, 0, 0, 0)
        entries.append(
            Entry(
                raw_name=raw_name,
                name=raw_name.decode("utf-8" if flags & _UTF_8 else "cp437", "replace"),
                flags=flags,
                method=method,
                crc=crc,
                packed=packed,
                size=size,
                offset=offset,
                mode=outer >> 16,
                is_sound=long is not None and disk == 0,
            )
        )
        place = following
    if place != len(data):
        raise ArchiveRefused("archive_damaged")
    return entries


def _long_sizes(extra: bytes, sizes: tuple[int, int, int], disk: int) -> tuple[int, int, int, int] | None:
    """Return size, packed size, offset and disk with the long values in their places; None where one is missing."""
    field = find_field(extra, _ZIP64)
    if field is None:
        return None
    values = []
    for value, full, length in (*((each, _FULL_32, 8) for each in sizes), (disk, _FULL_16, 4)):
        if value != full:
            values.append(value)
        elif len(field) < length:
            return None
        else:
            values.append(int.from_bytes(field[:length], "little"))
            field = field[length:]
    return values[0], values[1], values[2], values[3]


def find_field(extra: bytes, wanted: int) -> bytes | None:
    """Return the content of a header's extra field; None where there is none, or more of it than there are bytes."""
    place = 0
    while place + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, place)
        place += _FIELD.size
        if place + length > len(extra):
            return None
        if kind == wanted:
            return extra[place : place + length]
        place += length
    return None
