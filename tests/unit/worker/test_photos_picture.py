"""Every kind of file through the decoding, in this process."""

import json
import random
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.worker import photo_files as files
from worker.decoding.child import answer
from worker.decoding.outcomes import REASONS, Limits, Unusable
from worker.decoding.picture import Picture, decode_picture, working_copy
from worker.inference.preprocess import network_input

LIMITS = Limits(max_bytes=20 << 20, max_pixels=40_000_000, copy_side=768)


def _decode(data: bytes) -> Picture:
    return decode_picture(data, LIMITS)


def _reason(data: bytes, limits: Limits = LIMITS) -> str:
    head, parts = answer(data, limits)
    assert ("reason" in head) != bool(parts), head
    if "reason" in head:
        assert head["reason"] in REASONS
        assert head["detail"].endswith(".")
    return str(head.get("reason", "good"))


def _far(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures as the network sees them."""
    return float(np.abs(network_input(one).astype(float) - network_input(other)).mean())


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"subsampling": 0}),
        ("RGB", "JPEG", {"subsampling": 1}),
        ("RGB", "JPEG", {"optimize": True}),
        ("RGB", "JPEG", {"restart_marker_rows": 1}),
        ("RGB", "JPEG", {"keep_rgb": True}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("RGB", "WEBP", {"quality": 95}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGBA", "WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("size", [(800, 600), (1700, 1300), (90, 1500), (20, 20), (1, 1)])
def test_a_colour_photo_of_any_kind_is_read_as_pillow_reads_it(
    mode: str, kind: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    data = files.encoded(files.photo(*size).convert(mode), kind, **options)
    picture = _decode(data)
    assert (picture.width, picture.height, picture.format, picture.image.mode) == (*size, kind, "RGB")
    assert _far(picture.image, Image.open(BytesIO(data)).convert("RGB")) < 1.5


def test_grey_palette_and_two_coloured_pictures_come_out_as_colour() -> None:
    original = files.photo()
    for mode, kind, far in (("L", "JPEG", 3), ("L", "PNG", 0.5), ("LA", "PNG", 0.5), ("P", "PNG", 12)):
        picture = _decode(files.encoded(original.convert(mode), kind))
        assert _far(picture.image, original.convert("L" if "L" in mode else "RGB")) < far
    assert _reason(files.encoded(original.convert("1"), "PNG")) == "good"


def test_a_cmyk_photo_is_read_as_pillow_reads_it() -> None:
    data = files.encoded(files.photo().convert("CMYK"), "JPEG", quality=95)
    picture = _decode(data)
    assert picture.image.mode == "RGB"
    assert _far(picture.image, Image.open(BytesIO(data)).convert("RGB")) < 2
    assert _reason(data[: len(data) // 2] + b"\xff\xd9") == "damaged"


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 640 * 480).reshape(480, 640).astype(np.uint16)
    pixels = np.asarray(_decode(files.encoded(Image.fromarray(ramp), "PNG")).image)[..., 0]
    assert np.abs(pixels - ramp / 257).max() <= 0.51


def test_what_is_transparent_is_white() -> None:
    image = files.corners().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for kind in ("PNG", "WEBP"):
        pixels = np.asarray(_decode(files.encoded(image, kind, lossless=True)).image).astype(int)
        assert (pixels[0] == 255).all()
        assert np.abs(pixels[-1, 0] - files.BLUE).max() <= 3
    palette = Image.new("P", (600, 500), 0)
    palette.putpalette([9, 9, 9] * 256)
    assert np.asarray(_decode(files.encoded(palette, "PNG", transparency=0)).image).min() == 255
    deep = Image.fromarray(np.full((500, 600), 7, np.uint16))
    clear = files.with_chunks(files.encoded(deep, "PNG"), (b"tRNS", b"\0\x07"))
    assert np.asarray(_decode(clear).image).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_exif_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    picture = _decode(files.oriented(orientation, kind))
    assert (picture.width, picture.height) == (640, 480)
    width, height = picture.image.size
    for x, y, colour in (
        (0.25, 0.25, files.RED),
        (0.75, 0.25, files.GREEN),
        (0.25, 0.75, files.BLUE),
        (0.75, 0.75, files.WHITE),
    ):
        pixel = np.asarray(picture.image)[int(y * height), int(x * width)].astype(int)
        assert np.abs(pixel - colour).max() < 25


def test_a_broken_or_odd_exif_block_harms_no_photo() -> None:
    jpeg = files.encoded(files.photo())
    for exif in (b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"junk" * 100):
        assert _reason(files.with_segments(jpeg, (0xE1, b"Exif\0\0" + exif))) == "good"
    odd = Image.Exif()
    odd[0x0112] = 77
    assert _reason(files.encoded(files.photo(), exif=odd)) == "good"


def test_an_mpo_gives_its_first_picture() -> None:
    first, second = files.photo(seed=1), files.photo(seed=2)
    picture = _decode(files.encoded(first, "MPO", save_all=True, append_images=[second]))
    assert picture.format == "MPO"
    assert _far(picture.image, first) < 3


def test_a_tail_behind_the_picture_is_neither_read_nor_kept() -> None:
    jpeg = files.encoded(files.photo())
    for tail in (files.CANARY, b"<html><script>", bytes(100_000), jpeg):
        picture = _decode(jpeg + tail)
        assert tail not in working_copy(picture, 768)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_a_cut_jpeg_is_damaged_even_with_an_end_put_behind_it(options: dict[str, Any]) -> None:
    jpeg = files.encoded(files.photo(), **options)
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        cut = jpeg[: int(len(jpeg) * share)]
        assert _reason(cut) == "damaged", share
        assert _reason(cut + b"\xff\xd9") == "damaged", share


def test_a_progressive_jpeg_without_one_of_its_scans_is_damaged_and_one_of_too_many_is_no_photo() -> None:
    for mode in ("L", "RGB", "CMYK"):
        jpeg = files.encoded(files.photo(320, 240).convert(mode), progressive=True)
        starts = [at for at in range(len(jpeg)) if jpeg.startswith(b"\xff\xda", at)]
        assert len(starts) > 5
        tables = [jpeg.rindex(b"\xff\xc4", 0, start) for start in starts[1:]]
        assert [_reason(jpeg[:start] + b"\xff\xd9") for start in tables] == ["damaged"] * len(tables)
        assert _reason(jpeg[:-2] + jpeg[tables[-1] : -2] * 70 + b"\xff\xd9") == "unknown_type"
        assert _reason(jpeg) == "good"


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_zeroed_bytes_in_a_jpeg_are_damage_wherever_they_are(mode: str, options: dict[str, Any]) -> None:
    jpeg = files.encoded(files.photo().convert(mode), **options)
    for share in np.linspace(0.02, 0.98, 40):
        assert _reason(files.zeroed(jpeg, float(share))) == "damaged", share


def test_the_zeros_of_a_flat_picture_are_no_damage() -> None:
    framed = Image.new("RGB", (2000, 1500), (255, 255, 255))
    framed.paste(files.photo(), (500, 400))
    slope = Image.linear_gradient("L").resize((2000, 1500)).convert("RGB")
    for image in (framed, slope, Image.new("RGB", (2000, 1500)), Image.new("L", (2000, 1500), 255)):
        for options in ({}, {"optimize": True}, {"progressive": True}, {"quality": 5, "optimize": True}):
            assert _reason(files.encoded(image, **options)) == "good"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_cut_png_or_webp_is_damaged(kind: str) -> None:
    data = files.encoded(files.photo(), kind)
    for share in (0.01, 0.1, 0.5, 0.9):
        assert _reason(data[: int(len(data) * share)]) == "damaged"
    assert _reason(data[:-5]) == "damaged"


def test_any_altered_byte_of_a_png_is_damage() -> None:
    png = bytearray(files.encoded(files.photo(200, 200), "PNG"))
    chance = random.Random(5)
    for _ in range(100):
        at = chance.randrange(16, len(png))
        png[at] ^= 0x10
        assert _reason(bytes(png)) == "damaged", at
        png[at] ^= 0x10
    assert _reason(bytes(png)) == "good"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\xff\xd8\xff\xd9", "damaged"),
        (b"\xff" * 100_000, "unknown_type"),
        (b"\xff\xd8" + b"\xff" * 1_000_000, "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"RIFF\x04\0\0\0WEBP", "damaged"),
        (b"Dear doctor, this is a photo of my arm.", "unknown_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unknown_type"),
        (b"%PDF-1.7", "unknown_type"),
        (b"PK\x03\x04", "unknown_type"),
        (b"\0\0\0\x18ftypheic", "damaged"),
        (b"\0\0\0\x18ftypavif", "unknown_type"),
    ],
)
def test_what_is_no_photo_is_told_apart(data: bytes, reason: str) -> None:
    assert _reason(data) == reason


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP"])
def test_pictures_of_other_kinds_are_told_apart(kind: str) -> None:
    assert _reason(files.encoded(files.photo(), kind)) == "unknown_type"


def test_animations_are_refused() -> None:
    frames = [files.photo(90, 90, seed) for seed in range(3)]
    for kind in ("PNG", "WEBP"):
        animation = files.encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert _reason(animation) == "unsupported_frames"


def test_a_header_that_claims_too_much_is_refused_before_decoding() -> None:
    jpeg = files.encoded(files.photo(64, 64))
    for width, height in ((9000, 9000), (65_500, 65_500), (12_001, 100), (100, 12_001)):
        assert _reason(files.claiming(jpeg, width, height)) == "too_many_pixels"
    assert _reason(files.claiming(jpeg, 0, 64)) == "damaged"
    assert _reason(files.claiming(jpeg, 64, 0)) == "damaged"
    assert _reason(files.claiming(jpeg, 6000, 6000)) == "damaged"
    assert _reason(files.png_bomb()) == "too_many_pixels"
    assert _reason(files.png_bomb(6000, 6000)) == "good"
    kind, body = files.webp_chunks(files.encoded(files.photo(64, 64), "WEBP"))[0]
    huge = body[:6] + (16_000).to_bytes(2, "little") * 2 + body[10:]
    assert _reason(files.riff((kind, huge))) == "too_many_pixels"
    canvas = bytes(4) + (7999).to_bytes(3, "little") + (4999).to_bytes(3, "little")
    assert _reason(files.riff((b"VP8X", canvas), (kind, body))) == "damaged"


def test_the_limits_are_the_settings_and_count_themselves_in() -> None:
    data = files.encoded(files.photo(100, 100))
    assert _reason(data, Limits(len(data), 10_000, 768)) == "good"
    assert _reason(data, Limits(len(data) - 1, 10_000, 768)) == "too_large"
    assert _reason(data, Limits(len(data), 9_999, 768)) == "too_many_pixels"


def test_floods_of_metadata_are_refused() -> None:
    jpeg = files.encoded(files.photo(64, 64))
    assert _reason(files.with_segments(jpeg, *[(0xE1, b"Exif\0\0")] * 20_000)) == "metadata_too_large"
    assert _reason(files.with_segments(jpeg, *[(0xFE, b"x")] * 20_000)) == "metadata_too_large"
    assert _reason(files.with_segments(jpeg, *[(0xE2, bytes(65_000))] * 260)) == "metadata_too_large"
    assert _reason(files.with_segments(jpeg, *[(0xDD, b"\0\0")] * 100_000)) == "damaged"
    png = files.encoded(files.photo(64, 64), "PNG")
    assert _reason(files.with_chunks(png, *[(b"tEXt", b"a\0b")] * 20_000)) == "metadata_too_large"
    assert _reason(files.with_chunks(png, (b"zTXt", bytes(17 << 20)))) == "metadata_too_large"
    assert _reason(files.with_chunks(png, *[(b"IDAT", b"")] * 70_000)) == "damaged"
    webp = files.webp_chunks(files.encoded(files.photo(64, 64), "WEBP"))
    assert _reason(files.riff(*webp, *[(b"XMP ", b"x")] * 20_000)) == "metadata_too_large"


def test_large_but_honest_metadata_is_no_reason_to_refuse() -> None:
    jpeg = files.encoded(files.photo())
    assert (
        _reason(files.with_segments(jpeg, *[(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000))] * 80))
        == "good"
    )
    png = files.encoded(files.photo(), "PNG")
    assert (
        _reason(files.with_chunks(png, (b"iCCP", b"p\0\0" + bytes(3_000_000)), (b"tEXt", bytes(2_000_000)))) == "good"
    )


def test_jpegs_no_camera_writes_are_told_apart_from_damaged_ones() -> None:
    jpeg = files.encoded(files.photo(64, 64))
    start = jpeg.index(b"\xff\xc0")
    lossless = jpeg[: start + 1] + b"\xc3" + jpeg[start + 2 :]
    twelve_bits = jpeg[: start + 4] + b"\x0c" + jpeg[start + 5 :]
    assert _reason(lossless) == _reason(twelve_bits) == "unknown_type"


def test_the_working_copy_holds_pixels_alone() -> None:
    data = files.canary_jpeg()
    assert data.count(files.CANARY) > 5
    picture = _decode(data)
    copy = working_copy(picture, 768)
    assert files.CANARY not in copy
    for name in (b"Exif", b"http", b"ICC", b"Photoshop", b"xap", b"GPS"):
        assert name not in copy
    with Image.open(BytesIO(copy)) as opened:
        opened.load()
        assert (opened.format, opened.mode, dict(opened.getexif())) == ("JPEG", "RGB", {})
        assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert _far(opened, picture.image) < 3


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4000, 3000), (768, 576)),
        ((3000, 4000), (576, 768)),
        ((768, 10), (768, 10)),
        ((300, 200), (300, 200)),
        ((9000, 3), (768, 1)),
    ],
)
def test_the_working_copy_is_as_large_as_asked_and_never_larger_than_the_photo(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    for kind in ("JPEG", "PNG"):
        copy = working_copy(_decode(files.encoded(Image.new("RGB", size, files.GREEN), kind)), 768)
        assert Image.open(BytesIO(copy)).size == expected


def test_a_decode_that_fits_a_working_copy_becomes_it_without_a_resize() -> None:
    picture = _decode(files.encoded(files.photo(1152, 864)))
    assert max(picture.image.size) in range(512, 768 + 1)
    assert Image.open(BytesIO(working_copy(picture, 768))).size == picture.image.size


def test_a_scaled_decode_keeps_twice_the_networks_input_and_the_answer() -> None:
    original = files.photo(4000, 3000)
    whole = Image.open(BytesIO(data := files.encoded(original, quality=92)))
    scaled = _decode(data)
    assert min(scaled.image.size) >= 448
    assert max(scaled.image.size) < 2000
    assert _far(scaled.image, whole) < 1.0
    assert _far(_decode(files.encoded(original.resize((2000, 1500)), "PNG")).image, original) < 1.0


def test_an_answer_carries_what_the_page_and_the_network_need() -> None:
    head, (pixels, copy) = answer(files.encoded(files.photo(1000, 700)), LIMITS)
    assert len(pixels) == 224 * 224 * 3
    assert isinstance(copy, bytes)
    assert copy.startswith(b"\xff\xd8")
    assert (head["format"], head["width"], head["height"], head["quality"]["size"]) == ("JPEG", 1000, 700, 700)
    assert head["seconds"] > 0
    json.dumps(head)


def test_altered_files_end_in_a_picture_or_a_reason_and_nothing_else() -> None:
    chance = random.Random(11)
    seeds = [
        files.encoded(files.photo(160, 120).convert("P" if kind == "GIF" else "RGB"), kind)
        for kind in ("JPEG", "PNG", "WEBP")
    ]
    seeds.append(files.encoded(files.photo(160, 120), "JPEG", progressive=True))
    for round_ in range(600):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 8)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice((1, 1, 4, 40))] = chance.randbytes(chance.choice((0, 1, 4, 40)))
        assert _reason(bytes(data)) in {*REASONS, "good"}, round_


def test_reasons_are_sentences_and_an_unusable_file_names_one() -> None:
    assert all(text.endswith(".") and text[0].isupper() for text in REASONS.values())
    with pytest.raises(KeyError):
        Unusable("because")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_is_read_alike_wherever_it_lies(kind: str) -> None:
    data = files.oriented(6, kind)
    where_it_lies = memoryview(data + b"what an earlier file left")[: len(data)]
    alone, shared = (answer(given, LIMITS) for given in (data, where_it_lies))
    assert shared[1] == alone[1] != ()
    assert {**shared[0], "seconds": 0} == {**alone[0], "seconds": 0}
