"""Files of every kind that photos come as, and of every kind that they should not come as."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (240, 240, 240)
CANARY = b"canary-57.1497N"


def photo(width: int = 800, height: int = 600, seed: int = 1) -> Image.Image:
    """Soft shapes under a little sensor noise."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = soft + chance.integers(-9, 10, (height, width, 3), dtype=np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def corners(width: int = 640, height: int = 480) -> Image.Image:
    """Red, green, blue and white quarters, from the top left on by rows."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


# Packed soon rather than small: it is unpacked all the same.
_SOON: dict[str, dict[str, Any]] = {"PNG": {"compress_level": 1}, "WEBP": {"method": 0}}


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The picture as a file."""
    file = BytesIO()
    image.save(file, kind, **(_SOON.get(kind, {}) | options))
    return file.getvalue()


def oriented(orientation: int, kind: str = "JPEG") -> bytes:
    """A file that shows ``corners`` upright once its Exif orientation is obeyed."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = corners()
    return encoded(image.transpose(undo[orientation]) if orientation in undo else image, kind, exif=exif)


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """The JPEG with segments of these markers and contents right after its start."""
    added = b"".join(b"\xff" + struct.pack(">BH", marker, len(body) + 2) + body for marker, body in segments)
    return jpeg[:2] + added + jpeg[2:]


def claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its frame header."""
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + struct.pack(">HH", height, width) + jpeg[start + 4 :]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """The PNG with chunks right after its header."""
    return png[:33] + b"".join(chunk(kind, body) for kind, body in chunks) + png[33:]


def png_bomb(width: int = 30_000, height: int = 30_000, *, is_colour: bool = False) -> bytes:
    """A PNG of some kilobytes that unpacks to ``width * height`` bits, or to three bytes a pixel."""
    row = 3 * width if is_colour else (width + 7) // 8
    header = struct.pack(">IIBBBBB", width, height, *((8, 2) if is_colour else (1, 0)), 0, 0, 0)
    rows = zlib.compress(bytes(row + 1) * height, 1 if is_colour else 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webp_chunks(webp: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a WebP."""
    found, pos = [], 12
    while pos < len(webp):
        length = int.from_bytes(webp[pos + 4 : pos + 8], "little")
        found.append((webp[pos : pos + 4], webp[pos + 8 : pos + 8 + length]))
        pos += 8 + length + length % 2
    return found


def zeroed(data: bytes, at: float = 0.5, count: int = 40) -> bytes:
    """The file with ``count`` bytes zeroed at a share of its length."""
    start = int(len(data) * at)
    return data[:start] + bytes(count) + data[start + count :]


def canary_jpeg() -> bytes:
    """A photo with personal data in every place a camera or an editor puts it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = CANARY.decode()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "N"
    gps[ExifTags.GPS.GPSMapDatum] = CANARY.decode()
    jpeg = encoded(photo(), "JPEG", exif=exif, comment=CANARY, icc_profile=CANARY * 20)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x>" + CANARY + b"</x>"
    photoshop = b"Photoshop 3.0\0" + CANARY
    return with_segments(jpeg, (0xE1, xmp), (0xED, photoshop)) + CANARY
