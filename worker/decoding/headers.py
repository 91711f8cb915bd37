# ruff: noqa: PLR2004 -- the numbers are those of the formats, and named by the sections cited
"""What a file says about its picture, read with bounds before any codec sees the file.

Codecs remember metadata in quadratic time, unpack it without asking how much comes out, and make pictures of whatever
size a header of a few bytes claims. So all four containers are walked here first; each walk takes bounded time.
"""

import re
import struct
import zlib
from dataclasses import dataclass

from worker.decoding.heif import heif_size, is_heif
from worker.decoding.outcomes import Unusable

LONGEST_SIDE = 12_000
_MAX_SEGMENTS = 256
_MAX_METADATA = 16 << 20  # phones put depth maps and second pictures of several megabytes there
_MAX_CHUNKS = 65_536
_MAX_SCANS = 64  # encoders write 10 to 20
_NOT_FILL = re.compile(rb"[^\xff]")
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PROGRESSIVE = (0xC2, 0xCA)
_OTHERS = (
    (re.compile(rb"GIF8[79]a"), "a GIF"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF or raw photo"),
    (re.compile(rb"BM"), "a BMP"),
    (re.compile(rb".{4}ftypavi", re.DOTALL), "an AVIF picture"),
    (re.compile(rb".{4}ftyp", re.DOTALL), "a film"),
    (re.compile(rb"%PDF"), "a PDF document"),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """The claims of a file. ``width`` and ``height`` are as stored, before any rotation."""

    format: str
    width: int
    height: int
    exif: bytes = b""
    """The TIFF structure of the Exif block, without its name; empty if there is none."""
    components: int = 3
    """Colour components of a JPEG."""
    scans: int = 0
    """Where the scans of a progressive JPEG begin."""
    slim: bytes = b""
    """A PNG without everything its pixels do not need."""


def is_jpeg(data: bytes | memoryview) -> bool:
    """Whether the file begins as a JPEG does (ITU-T T.81, B.1.1.3)."""
    return data[:3] == b"\xff\xd8\xff"


def read_header(data: bytes | memoryview, *, max_pixels: int) -> Header:
    """Walk the container. Raises ``Unusable`` for whatever should not reach a codec."""
    if not data:
        raise Unusable("empty")
    if is_jpeg(data):
        header = _walk_jpeg(data)
    elif isinstance(data, memoryview):
        return read_header(bytes(data), max_pixels=max_pixels)
    elif data.startswith(_PNG):
        header = _walk_png(data, max_pixels)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = _walk_webp(data)
    elif is_heif(data):
        header = Header("HEIC", *heif_size(data, max_pixels))
    else:
        for pattern, name in _OTHERS:
            if pattern.match(data):
                raise Unusable("unknown_type", f"The file is {name}; JPEG, PNG, WebP and HEIC are taken.")
        raise Unusable("unknown_type")
    check_size(header.width, header.height, max_pixels)
    if header.scans:
        _check_scans(data, header.scans, header.components)
    return header


def check_size(width: int, height: int, max_pixels: int, kind: str = "a photo") -> None:
    """Raise ``Unusable`` for a picture of no or of too many pixels; ``kind`` is what has this limit."""
    if width < 1 or height < 1:
        raise Unusable("damaged", "The picture says that it has no pixels.")
    if width * height > max_pixels or max(width, height) > LONGEST_SIDE:
        limits = f"{max_pixels} pixels and sides of {LONGEST_SIDE} are the limit of {kind}"
        raise Unusable("too_many_pixels", f"The picture has {width} x {height} pixels; {limits}.")


def _walk_jpeg(data: bytes | memoryview) -> Header:
    """Follow the segments up to the first scan (ITU-T T.81, B.1.1)."""
    pos, segments, metadata, frame, exif, kind = 2, 0, 0, None, b"", "JPEG"
    for _ in range(_MAX_CHUNKS):
        found = _NOT_FILL.search(data, pos)
        if data[pos : pos + 1] != b"\xff" or found is None or found.start() + 3 > len(data):
            break
        marker, start = data[found.start()], found.start() + 1
        length = int.from_bytes(data[start : start + 2], "big")
        if marker == 0xDA and frame:
            height, width, components, is_progressive = frame
            return Header(kind, width, height, exif, components, scans=pos if is_progressive else 0)
        if length < 2 or start + length > len(data) or marker in (0x01, 0xDA, 0xD9) or 0xD0 <= marker <= 0xD8:
            break
        body = bytes(data[start + 2 : start + length])
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            segments, metadata = segments + 1, metadata + length
            _check_metadata(segments, metadata)
            if marker == 0xE1 and body.startswith(b"Exif\0\0"):
                exif = exif or body[6:]
            elif marker == 0xE2 and body.startswith(b"MPF\0"):
                kind = "MPO"
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame:
                break
            frame = _jpeg_frame(marker, body)
        pos = start + length
    raise Unusable("damaged", "The header of the JPEG is damaged or cut off.")


def _check_scans(data: bytes | memoryview, pos: int, components: int) -> None:
    """Follow the scans of a progressive JPEG from ``pos`` to its end (T.81, G.1.1.1).

    A few bytes of scan can make a decoder walk the whole picture once more, so their number is bounded. And a decoder
    is content with the scans that are there, so each bit of each coefficient must have come in one of them.
    """
    scans = 0
    missing_bits: dict[int, list[int]] = {}
    for _ in range(_MAX_CHUNKS):
        found = _MARKER.search(data, pos)
        if found is None or found.group() == b"\xff\xd9":
            if len(missing_bits) < components or any(map(any, missing_bits.values())):
                raise Unusable("damaged", "Scans of the JPEG are missing.")
            return
        start = found.end()
        pos = start + max(2, int.from_bytes(data[start : start + 2], "big"))
        if found.group() == b"\xff\xda":
            scans += 1
            _note_scan(bytes(data[start + 2 : pos]), missing_bits)
        if scans > _MAX_SCANS:
            break
    raise Unusable("unknown_type", "The file is a JPEG of more scans than encoders write.")


def _note_scan(head: bytes, missing_bits: dict[int, list[int]]) -> None:
    """Note how many bits of which coefficients of which components are still to come after a scan (T.81, B.2.3)."""
    count = head[0] if head else 0
    if len(head) < 4 + 2 * count:
        raise Unusable("damaged", "The header of a scan is damaged or cut off.")
    first, last, bits = head[1 + 2 * count : 4 + 2 * count]
    for component in head[1 : 1 + 2 * count : 2]:
        left = missing_bits.setdefault(component, [1] * 64)
        left[first : last + 1] = [bits & 15] * len(left[first : last + 1])


def _jpeg_frame(marker: int, body: bytes) -> tuple[int, int, int, bool]:
    """Height, width and components of a frame header, and whether it is progressive (T.81, B.2.2)."""
    if len(body) < 6:
        raise Unusable("damaged", "The header of the JPEG is damaged or cut off.")
    precision, height, width, components = struct.unpack_from(">BHHB", body)
    if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA) or precision != 8 or components not in (1, 3, 4):
        raise Unusable("unknown_type", "The file is a JPEG of a kind that cameras do not write.")
    return height, width, components, marker in _PROGRESSIVE


def _walk_png(data: bytes, max_pixels: int) -> Header:
    """Check every chunk's sum, which Pillow does not, and leave out what the pixels do not need (PNG 3, 5.3)."""
    view = memoryview(data)
    pos, chunks, metadata, exif, last = len(_PNG), 0, 0, b"", b""
    needed: list[memoryview] = [view[:pos]]
    width = height = 0
    for _ in range(_MAX_CHUNKS):
        if pos + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, pos)
        end = pos + 12 + length
        if end > len(data) or zlib.crc32(view[pos + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            break
        if (kind == b"IHDR") == bool(last) or (kind == b"IHDR" and length != 13):
            break
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, pos + 8)
            check_size(width, height, max_pixels)
        elif kind == b"acTL" and length >= 4 and int.from_bytes(view[pos + 8 : pos + 12], "big") > 1:
            raise Unusable("unsupported_frames")
        elif kind == b"eXIf":
            exif = exif or bytes(view[pos + 8 : end - 4])
        if kind in _PNG_NEEDED:
            needed.append(view[pos:end])
        else:
            chunks, metadata = chunks + 1, metadata + length
            _check_metadata(chunks, metadata)
        if kind == b"IEND":
            return Header("PNG", width, height, exif, slim=b"".join(needed))
        pos, last = end, kind
    raise Unusable("damaged", "The PNG is damaged or cut off.")


def _walk_webp(data: bytes) -> Header:
    """Follow the chunks (RFC 9649, 2). WebP carries no sums: damage inside its pixels can escape every reader."""
    end = 8 + int.from_bytes(data[4:8], "little")
    pos, chunks, metadata, exif = 12, 0, 0, b""
    sizes: set[tuple[int, int]] = set()
    if end > len(data):
        raise Unusable("damaged", "The WebP is cut off.")
    for _ in range(_MAX_CHUNKS):
        if pos + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, pos)
        body = data[pos + 8 : pos + 8 + min(length, 32)]
        if pos + 8 + length > end:
            raise Unusable("damaged", "The WebP is cut off.")
        if kind in (b"ANIM", b"ANMF"):
            raise Unusable("unsupported_frames")
        if kind in (b"VP8X", b"VP8 ", b"VP8L"):
            sizes.add(_webp_size(kind, body))
        elif kind != b"ALPH":
            chunks, metadata = chunks + 1, metadata + length
            _check_metadata(chunks, metadata)
            if kind == b"EXIF":
                exif = exif or data[pos + 8 : pos + 8 + length].removeprefix(b"Exif\0\0")
        pos += 8 + length + length % 2
    if len(sizes) != 1:
        raise Unusable("damaged", "The header of the WebP is damaged.")
    return Header("WEBP", *sizes.pop(), exif)


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Width and height by the chunk that tells them (RFC 9649, 2.5 to 2.7; RFC 6386, 9.1)."""
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8 " and len(body) >= 10 and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if kind == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise Unusable("damaged", "The header of the WebP is damaged.")


def _check_metadata(pieces: int, size: int) -> None:
    if pieces > _MAX_SEGMENTS or size > _MAX_METADATA:
        raise Unusable("metadata_too_large")
