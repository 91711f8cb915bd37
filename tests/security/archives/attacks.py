"""Hostile archives, each made here: what is wrong with it, and the reason its entries or the whole are refused for."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from tests.security.archives.packing import (
    DEFLATED,
    Packed,
    central_header,
    deflate,
    end_record,
    end_record_64,
    local_header,
    pack,
)
from tests.unit.worker.photo_files import encoded, photo

GOOD = encoded(photo(160, 120, 1))
FIRST, LAST = Packed(b"first.jpg", GOOD), Packed(b"folder/last.jpg", encoded(photo(160, 120, 2)), DEFLATED)


@dataclass(frozen=True)
class Attack:
    """An archive with a good photo before and behind what is hostile, unless the whole of it is refused."""

    archive: bytes
    refused: tuple[str, ...]
    is_whole: bool = False


def around(*hostile: Packed, reasons: tuple[str, ...] | str) -> Attack:
    told = (reasons,) * len(hostile) if isinstance(reasons, str) else reasons
    return Attack(pack(FIRST, *hostile, LAST), told)


def whole(archive: bytes, reason: str) -> Attack:
    return Attack(archive, (reason,), is_whole=True)


def full_overlap() -> Attack:
    """200 entries of the directory, one body: each would be a photo of its own, of bytes that came once."""
    body = Packed(b"bomb.jpg", GOOD, DEFLATED)
    archive = bytearray(local_header(FIRST) + FIRST.body)
    place = len(archive)
    archive += local_header(body) + body.body
    last = len(archive)
    archive += local_header(LAST) + LAST.body
    start = len(archive)
    archive += central_header(FIRST, 0)
    for number in range(200):
        archive += central_header(Packed(b"bomb%03d.jpg" % number, GOOD, DEFLATED), place)
    archive += central_header(LAST, last)
    return Attack(bytes(archive) + end_record(202, len(archive) - start, start), ("overlapping",) * 200)


def quoted_overlap() -> Attack:
    """An entry whose extra field reaches over the header of the next, which then would be read twice."""
    inner = Packed(b"inner.jpg", GOOD)
    quoting = Packed(b"quote.jpg", GOOD, local={"extra": local_header(inner)})
    archive = bytearray(local_header(FIRST) + FIRST.body)
    place = len(archive)
    head = local_header(quoting)
    archive += head + GOOD
    inside = place + len(head) - len(local_header(inner))
    last = len(archive)
    archive += local_header(LAST) + LAST.body
    start = len(archive)
    archive += (
        central_header(FIRST, 0)
        + central_header(quoting, place)
        + central_header(inner, inside)
        + central_header(LAST, last)
    )
    return Attack(bytes(archive) + end_record(4, len(archive) - start, start), ("overlapping",))


def into_the_directory() -> Attack:
    archive = pack(FIRST, LAST, Packed(b"far.jpg", GOOD, offset=0x7FFFFFFF))
    return Attack(archive, ("overlapping",))


def names() -> Attack:
    hostile = [
        b"../up.jpg", b"a/../../up.jpg", b"/abs.jpg", b"C:/drive.jpg", b"back\\slash.jpg", b"nul\x00.jpg",
        b"bell\x07.jpg", b"", b"line\n.jpg", b"dir/",
    ]  # fmt: skip
    entries = [Packed(name, GOOD) for name in hostile]
    entries.append(Packed(b"bad\xff\xfe.jpg", GOOD, flags=0x800))
    entries.append(Packed("turned\u202egpj.exe".encode(), GOOD, flags=0x800))
    return around(*entries, reasons="bad_name")


def nested() -> Attack:
    inner = pack(FIRST)
    return around(
        Packed(b"42.zip", inner), Packed(b"innocent.jpg", inner, DEFLATED), Packed(b"more.tar.gz", b"x" * 50),
        Packed(b"gz.jpg", b"\x1f\x8b\x08" + bytes(30)), reasons="nested_archive",
    )  # fmt: skip


def encrypted() -> Attack:
    return around(
        Packed(b"old.jpg", GOOD, flags=1), Packed(b"aes.jpg", GOOD, method=99), Packed(b"strong.jpg", GOOD, flags=0x41),
        reasons="encrypted",
    )  # fmt: skip


def methods() -> Attack:
    return around(*(Packed(b"m%d.jpg" % n, GOOD, method=n, packed=GOOD) for n in (1, 6, 9, 12, 14, 93, 97)),
                  reasons="unsupported_method")  # fmt: skip


def special_files() -> Attack:
    return around(
        *(Packed(b"link%o.jpg" % mode, b"/etc/passwd", mode=mode) for mode in (0o120777, 0o020666, 0o010644, 0o140755)),
        reasons="special_file",
    )


def dense() -> Attack:
    return around(Packed(b"dense.jpg", bytes(30 << 20), DEFLATED), reasons="too_dense")


def claims_to_be_large() -> Attack:
    return around(
        Packed(b"large.jpg", GOOD, DEFLATED, size=0xFFFFFFF0),
        Packed(b"long.jpg", GOOD, size=40 << 20, packed_size=40 << 20),
        reasons=("too_large", "overlapping"),
    )


def claims_to_be_small() -> Attack:
    """50 MB that call themselves a thousand bytes."""
    body = deflate(bytes(50 << 20))
    return around(
        Packed(b"small.jpg", bytes(1000), DEFLATED, packed=body),
        Packed(b"lying.jpg", GOOD, DEFLATED, size=len(GOOD) - 1),
        Packed(b"short.jpg", GOOD, DEFLATED, size=len(GOOD) + 1),
        reasons="size_mismatch",
    )


def checksums() -> Attack:
    late = {"crc": 0, "size": 0, "packed_size": 0}
    return around(
        Packed(b"crc.jpg", GOOD, crc=1),
        Packed(b"crc2.jpg", GOOD, DEFLATED, crc=2),
        Packed(b"late.jpg", GOOD, flags=8, crc=3, local=late),
        reasons="checksum_mismatch",
    )


def headers() -> Attack:
    other = {"name": b"other.jpg", "method": DEFLATED, "size": 5, "packed_size": 7, "crc": 9, "flags": 1}
    hostile = [Packed(b"%s.jpg" % key.encode(), GOOD, local={key: value}) for key, value in other.items()]
    return around(*hostile, reasons="header_mismatch")


def damaged_data() -> Attack:
    return around(
        Packed(b"noise.jpg", GOOD, DEFLATED, packed=b"\xff" * 200),
        Packed(b"cut.jpg", GOOD, DEFLATED, packed=deflate(GOOD)[:-20]),
        Packed(b"tail.jpg", GOOD, DEFLATED, packed=deflate(GOOD) + b"hidden"),
        reasons=("data_damaged", "data_damaged", "size_mismatch"),
    )


def zip64_entry_lies() -> Attack:
    def long(*values: int) -> bytes:
        return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)

    huge = 1 << 62
    full = 0xFFFFFFFF
    return around(
        Packed(b"none.jpg", GOOD, size=full),
        Packed(b"few.jpg", GOOD, size=full, packed_size=full, extra=long(5)),
        Packed(b"huge.jpg", GOOD, DEFLATED, size=full, packed_size=full, extra=long(huge, huge)),
        Packed(b"away.jpg", GOOD, offset=full, extra=long(huge)),
        Packed(b"field.jpg", GOOD, size=full, extra=struct.pack("<2H", 1, 5000)),
        reasons=("header_damaged", "header_damaged", "too_large", "overlapping", "header_damaged"),
    )


def duplicates() -> Attack:
    return around(Packed(b"first.jpg", GOOD), Packed(b"first.jpg", b"x" * 99), reasons="duplicate_name")


def many_entries() -> Attack:
    """150,000 entries in a directory that holds them."""
    directory = central_header(Packed(b"a.jpg", b""), 0) * 150_000
    tail = end_record_64(150_000, len(directory), 0, len(directory)) + end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return whole(directory + tail, "archive_too_many_entries")


def many_claimed() -> Attack:
    tail = end_record_64(1 << 60, 1 << 60, 0, 0) + end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return whole(tail, "archive_damaged")


def nobodys() -> Attack:
    files = (Packed(b"folder/", b""), Packed(b"__MACOSX/._a.jpg", GOOD), Packed(b"folder/.DS_Store", b"x"))
    return whole(pack(*files), "archive_empty")


def long_end_that_leads_away() -> Attack:
    tail = end_record_64(1, 1, 1, 0, locator=1 << 40) + end_record(1, 1, 1)
    return whole(pack(FIRST)[:-22] + tail, "archive_damaged")


WHOLE: dict[str, Callable[[], Attack]] = {
    "a count that lies": lambda: whole(pack(FIRST, LAST, count=1), "archive_damaged"),
    "a directory that ends early": lambda: whole(pack(FIRST, LAST, size=60), "archive_damaged"),
    "something before the archive": lambda: whole(pack(FIRST, LAST, prefix=GOOD, shifted=True), "archive_damaged"),
    "something behind the archive": lambda: whole(pack(FIRST, LAST) + b"tail", "archive_damaged"),
    "two ends": lambda: whole(pack(FIRST, LAST, comment=end_record(0, 0, 0)), "archive_damaged"),
    "cut off": lambda: whole(pack(FIRST, LAST)[:-40], "archive_damaged"),
    "no archive": lambda: whole(GOOD, "archive_damaged"),
    "nothing": lambda: whole(b"", "archive_damaged"),
    "no entries": lambda: whole(pack(), "archive_empty"),
    "nobody's photos": nobodys,
    "one volume of several": lambda: whole(pack(FIRST, disk=3), "archive_split"),
    "a long end that leads away": long_end_that_leads_away,
    "more entries than a job has photos": many_entries,
    "more entries than there are bytes": many_claimed,
}
ENTRIES: dict[str, Callable[[], Attack]] = {
    "entries that overlap": full_overlap,
    "an entry that quotes another": quoted_overlap,
    "an entry that reaches into the directory": into_the_directory,
    "names that lead away": names,
    "archives in the archive": nested,
    "encrypted entries": encrypted,
    "unknown methods": methods,
    "links and devices": special_files,
    "a bomb that says so": dense,
    "sizes that are too large": claims_to_be_large,
    "sizes that are too small": claims_to_be_small,
    "checksums that lie": checksums,
    "headers that say something else": headers,
    "damaged data": damaged_data,
    "long sizes that lie": zip64_entry_lies,
    "two entries of one name": duplicates,
}
