"""Files made to cost a reader far more than they are worth, each with what has to become of it.

Most never reach the expensive part of a codec; what decodes leaves behind whatever is foul about it.
"""

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import ExifTags, Image

from tests.unit.worker import heif_files as heif
from tests.unit.worker import photo_files as files

_PNG = b"\x89PNG\r\n\x1a\n"


class Bomb(NamedTuple):
    """A hostile file: its name, how it is made, and the reasons it may be refused with; none if it has to be read."""

    name: str
    make: Callable[[], bytes]
    reasons: frozenset[str]


BOMBS: list[Bomb] = []


def _bomb(*reasons: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        BOMBS.append(Bomb(make.__name__, make, frozenset(reasons)))
        return make

    return register


def _jpeg(side: int = 64) -> bytes:
    return files.encoded(files.photo(side, side))


def _png(side: int = 64) -> bytes:
    return files.encoded(files.photo(side, side), "PNG")


@functools.cache
def _zeros(count: int) -> bytes:
    """``count`` zero bytes as zlib packs them, made without holding them."""
    packer = zlib.compressobj(9)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*pieces, packer.compress(bytes(count % (1 << 20))), packer.flush()])


def _png_of(width: int, height: int, depth: int, colour: int, data: bytes, *, interlaced: bool = False) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return _PNG + files.chunk(b"IHDR", header) + files.chunk(b"IDAT", data) + files.chunk(b"IEND", b"")


def _tiff(count: int, tag: int = 0x0100) -> bytes:
    """An Exif block whose first directory claims ``count`` entries, and has them."""
    entry = struct.pack("<HHII", tag, 4, 1, 7)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count) + entry * count + bytes(4)


@_bomb("too_many_pixels")
def jpeg_of_81_megapixels_by_its_header() -> bytes:
    return files.claiming(_jpeg(), 9000, 9000)


@_bomb("too_many_pixels")
def jpeg_of_4_gigapixels_by_its_header() -> bytes:
    return files.claiming(_jpeg(), 65_500, 65_500)


@_bomb("too_many_pixels")
def jpeg_65_000_pixels_wide() -> bytes:
    return files.claiming(_jpeg(), 65_000, 600)


@_bomb("too_many_pixels")
def jpeg_65_000_pixels_tall() -> bytes:
    return files.claiming(_jpeg(), 600, 65_000)


@_bomb("damaged")
def jpeg_of_40_megapixels_that_ends_after_64() -> bytes:
    return files.claiming(_jpeg(), 7000, 5700)


@_bomb("unknown_type")
def progressive_jpeg_whose_scans_never_end() -> bytes:
    """Each scan makes the decoder walk all coefficients once more: T.81 sets no bound to their number."""
    whole = files.encoded(files.photo(64, 64), progressive=True)
    start, scan = whole.index(b"\xff\xc2"), whole.rindex(b"\xff\xda")
    large = whole[: start + 5] + struct.pack(">HH", 5000, 7000) + whole[start + 9 :]
    return large[:-2] + large[scan:-2] * 20_000 + b"\xff\xd9"


@_bomb("metadata_too_large")
def jpeg_of_80_000_small_segments() -> bytes:
    return files.with_segments(_jpeg(), *[(0xE1, b"Exif\0\0" + bytes(56))] * 80_000)


@_bomb("metadata_too_large", "too_large")
def jpeg_of_1_000_full_segments() -> bytes:
    return files.with_segments(_jpeg(), *[(0xE1, b"Exif\0\0" + bytes(65_000))] * 1_000)


@_bomb("metadata_too_large")
def jpeg_of_a_colour_profile_in_255_pieces() -> bytes:
    pieces = [(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(65_000)) for n in range(1, 256)]
    return files.with_segments(_jpeg(), *pieces, *pieces)


@_bomb("damaged")
def jpeg_of_100_000_tables() -> bytes:
    table = _jpeg()
    at = table.index(b"\xff\xdb")
    length = int.from_bytes(table[at + 2 : at + 4], "big")
    return table[:2] + table[at : at + 2 + length] * 100_000 + table[2:]


@_bomb()
def jpeg_whose_exif_says_5_000_times_the_same() -> bytes:
    return files.with_segments(_jpeg(), (0xE1, _tiff(5_000)))


@_bomb()
def jpeg_whose_exif_points_at_itself() -> bytes:
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    return files.with_segments(_jpeg(), (0xE1, exif))


@_bomb("too_many_pixels")
def png_of_400_megapixels_at_1_bit() -> bytes:
    return files.png_bomb(20_000, 20_000)


@_bomb("too_many_pixels")
def png_of_4_billion_rows() -> bytes:
    return _png_of(1, 0x7FFFFFFF, 8, 0, _zeros(1 << 20))


@_bomb("too_many_pixels")
def png_of_4_billion_columns() -> bytes:
    return _png_of(0x7FFFFFFF, 1, 16, 6, _zeros(1 << 20))


@_bomb("damaged", "too_many_pixels")
def interlaced_png_of_80_megapixels() -> bytes:
    return _png_of(9000, 9000, 8, 2, _zeros(4 << 20), interlaced=True)


@_bomb()
def png_with_100_megabytes_behind_its_pixels() -> bytes:
    row = b"\0" + bytes(3 * 64)
    packed = zlib.compressobj(9)
    data = packed.compress(row * 64) + b"".join(packed.compress(bytes(1 << 20)) for _ in range(100)) + packed.flush()
    return _png_of(64, 64, 8, 2, data)


@_bomb()
def png_with_100_megabytes_of_packed_text() -> bytes:
    return files.with_chunks(_png(), (b"zTXt", b"Comment\0\0" + _zeros(100 << 20)))


@_bomb()
def png_with_100_megabytes_of_packed_international_text() -> bytes:
    return files.with_chunks(_png(), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _zeros(100 << 20)))


@_bomb()
def png_with_a_colour_profile_of_100_megabytes() -> bytes:
    return files.with_chunks(_png(), (b"iCCP", b"profile\0\0" + _zeros(100 << 20)))


@_bomb("metadata_too_large")
def png_of_300_small_texts_of_100_kilobytes() -> bytes:
    return files.with_chunks(_png(), *[(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000)))] * 300)


@_bomb("damaged")
def png_of_70_000_empty_pieces() -> bytes:
    return files.with_chunks(_png(), *[(b"IDAT", b"")] * 70_000)


@_bomb("unsupported_frames")
def animated_png_of_500_frames() -> bytes:
    return files.with_chunks(_png(), (b"acTL", struct.pack(">II", 500, 0)))


@_bomb("too_many_pixels")
def webp_of_81_megapixels_by_its_header() -> bytes:
    kind, body = files.webp_chunks(files.encoded(files.photo(64, 64), "WEBP"))[0]
    return files.riff((kind, body[:6] + struct.pack("<HH", 9000, 9000) + body[10:]))


@_bomb("damaged")
def webp_of_28_megapixels_by_its_header() -> bytes:
    kind, body = files.webp_chunks(files.encoded(files.photo(64, 64), "WEBP"))[0]
    return files.riff((kind, body[:6] + struct.pack("<HH", 6500, 4300) + body[10:]))


@_bomb("too_many_pixels")
def lossless_webp_of_40_megapixels_in_50_bytes() -> bytes:
    bits = (6999) | (5699 << 14)
    return files.riff((b"VP8L", b"\x2f" + struct.pack("<I", bits) + bytes(40)))


@_bomb("damaged")
def lossless_webp_of_28_megapixels_in_50_bytes() -> bytes:
    bits = (6999) | (3999 << 14)
    return files.riff((b"VP8L", b"\x2f" + struct.pack("<I", bits) + bytes(40)))


@_bomb("damaged", "too_many_pixels")
def webp_whose_canvas_is_larger_than_its_picture() -> bytes:
    kind, body = files.webp_chunks(files.encoded(files.photo(64, 64), "WEBP"))[0]
    canvas = bytes(4) + (16_383).to_bytes(3, "little") * 2
    return files.riff((b"VP8X", canvas), (kind, body))


@_bomb("unsupported_frames")
def webp_of_300_frames() -> bytes:
    frames = [Image.new("RGB", (16, 16), (n % 256, 0, 0)) for n in range(300)]
    return files.encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


@_bomb("metadata_too_large")
def webp_of_20_000_descriptions() -> bytes:
    return files.riff(*files.webp_chunks(files.encoded(files.photo(64, 64), "WEBP")), *[(b"XMP ", b"x")] * 20_000)


@_bomb("unknown_type")
def gif_of_1_000_frames() -> bytes:
    frames = [Image.new("P", (16, 16), n % 256) for n in range(1000)]
    return files.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


@_bomb("unknown_type")
def tiff_of_1_000_pages() -> bytes:
    pages = [Image.new("L", (8, 8), n % 256) for n in range(1000)]
    return files.encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])


@_bomb("unknown_type")
def tiff_of_30_000_square_packed_in_kilobytes() -> bytes:
    entries = [(0x0100, 30_000), (0x0101, 30_000), (0x0102, 1), (0x0103, 8), (0x0106, 0), (0x0111, 200), (0x0117, 100)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(104) + zlib.compress(bytes(1 << 20))


@_bomb("damaged")
def heic_by_its_first_bytes() -> bytes:
    return b"\0\0\0\x18ftypheic" + bytes(12) + bytes(1 << 16)


def _heic_of(width: int, height: int) -> bytes:
    picture = heif.piece("tile")
    picture.properties[1] = heif.ispe(width, height)
    return heif.heic({1: picture})


@_bomb("too_many_pixels")
def heic_of_81_megapixels_by_its_header() -> bytes:
    return _heic_of(9000, 9000)


@_bomb("too_many_pixels")
def heic_of_all_the_pixels_its_header_can_tell() -> bytes:
    return _heic_of(0xFFFFFFFF, 0xFFFFFFFF)


@_bomb("damaged")
def heic_whose_stream_has_67_megapixels_and_its_header_4096() -> bytes:
    picture = heif.piece("large")
    picture.properties[1] = heif.ispe(64, 64)
    return heif.heic({1: picture})


@_bomb("too_many_pixels")
def heic_of_67_megapixels_in_15_kilobytes() -> bytes:
    return heif.stored("large")


@_bomb("unknown_type")
def heic_of_one_megabyte_named_900_times() -> bytes:
    data = heif.piece("tile")
    data.data += bytes(1 << 20)
    whole = heif.heic({1: data, **{n: heif.Item(b"hvc1", b"") for n in range(2, 900)}})
    at = whole.index(b"iloc") + 10
    [start, length] = struct.unpack_from(">II", whole, at + 8)
    places = b"".join(struct.pack(">HHHII", n, 0, 1, start, length) for n in range(1, 900))
    return whole[: at + 2] + places + whole[at + 2 + len(places) :]


@_bomb("damaged")
def heic_of_no_pixels() -> bytes:
    return _heic_of(0, 512)


@_bomb("too_many_pixels")
def heic_grid_of_4_gigapixels() -> bytes:
    whole = heif.Item(b"grid", heif.grid(1, 1, 70_000, 70_000), [heif.ispe(70_000, 70_000)], {b"dimg": [2]})
    return heif.heic({1: whole, 2: heif.piece("tile")})


@_bomb("unknown_type")
def heic_grid_of_40_000_tiles() -> bytes:
    whole = heif.Item(b"grid", heif.grid(200, 200, 6000, 6000), [heif.ispe(6000, 6000)], {b"dimg": [2] * 40_000})
    return heif.heic({1: whole, 2: heif.piece("tile")})


@_bomb("damaged")
def heic_grid_of_many_large_tiles_for_a_small_picture() -> bytes:
    whole = heif.Item(b"grid", heif.grid(16, 16, 64, 64), [heif.ispe(64, 64)], {b"dimg": [2] * 256})
    return heif.heic({1: whole, 2: heif.piece("tile")})


@_bomb("damaged")
def heic_grid_that_is_larger_than_its_property() -> bytes:
    whole = heif.Item(b"grid", heif.grid(1, 1, 6000, 6000), [heif.ispe(64, 64)], {b"dimg": [2]})
    return heif.heic({1: whole, 2: heif.piece("tile")})


@_bomb("unknown_type")
def heic_grid_of_itself() -> bytes:
    return heif.heic({1: heif.Item(b"grid", heif.grid(1, 2, 512, 512), [heif.ispe(512, 512)], {b"dimg": [1, 1]})})


@_bomb("unknown_type")
def heic_grid_of_grids_500_deep() -> bytes:
    items = {
        n: heif.Item(b"grid", heif.grid(1, 2, 512, 512), [heif.ispe(512, 512)], {b"dimg": [n + 1, n + 1]})
        for n in range(1, 500)
    }
    return heif.heic({**items, 500: heif.piece("tile")})


@_bomb("unknown_type")
def heic_overlay_of_100_pictures() -> bytes:
    overlay = heif.Item(b"iovl", bytes(1000), [heif.ispe(512, 512)], {b"dimg": [2] * 100})
    return heif.heic({1: overlay, 2: heif.piece("tile")})


@_bomb("metadata_too_large")
def heic_of_50_000_items() -> bytes:
    empty = {n: heif.Item(b"mime", b"") for n in range(2, 50_000)}
    return heif.heic({1: heif.piece("tile"), **empty})


@_bomb("metadata_too_large")
def heic_of_100_000_boxes() -> bytes:
    return heif.heic({1: heif.piece("tile")}, more=heif.box(b"free") * 100_000)


@_bomb("damaged")
def heic_whose_boxes_end_beyond_the_file() -> bytes:
    return heif.heic({1: heif.piece("tile")}, more=b"\0\0\0\x01uuid" + b"\x7f" + b"\xff" * 7)


@_bomb("unsupported_frames")
def heic_with_a_film_of_its_own() -> bytes:
    return heif.heic({1: heif.piece("tile")}, more=heif.box(b"moov", bytes(1 << 16)))


@_bomb("damaged")
def heic_of_a_picture_larger_than_its_header() -> bytes:
    return _heic_of(16, 16)


@_bomb("unknown_type")
def eps_with_a_program() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n{ } loop\n"


@_bomb("unknown_type")
def svg_that_asks_for_a_file() -> bytes:
    return (
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
        b'<svg xmlns="http://www.w3.org/2000/svg"><text>&a;</text></svg>'
    )


@_bomb()
def mpo_of_200_pictures() -> bytes:
    pictures = [Image.new("RGB", (16, 16), (n, 0, 0)) for n in range(200)]
    return files.encoded(files.photo(90, 90), "MPO", save_all=True, append_images=pictures)


@_bomb()
def jpeg_that_is_a_page_too() -> bytes:
    page = b"<html><script>alert('" + files.CANARY + b"')</script></html>"
    return files.with_segments(_jpeg(200), (0xFE, page)) + page


@_bomb()
def jpeg_that_is_an_archive_too() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("canary.txt", files.CANARY)
    return _jpeg(200) + archive.getvalue()


@_bomb()
def png_that_is_a_program_too() -> bytes:
    return _png(200) + b"\x7fELF" + files.CANARY


@_bomb()
def jpeg_whose_thumbnail_is_a_bomb() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = files.CANARY.decode()
    bomb = jpeg_of_4_gigapixels_by_its_header()
    block = exif.tobytes()
    return files.with_segments(_jpeg(200), (0xE1, block + bomb))
