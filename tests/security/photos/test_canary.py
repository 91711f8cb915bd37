"""Personal data in every place of a file that can hold some: none of it is in the working copy, or in any answer."""

import re
import zlib
from collections.abc import Iterator

import pytest
from PIL import ExifTags, Image

from tests.unit.worker import heif_files as heif
from tests.unit.worker import photo_files as files
from worker.decoding.decoder import Decoder
from worker.decoding.outcomes import Decoded, Limits, Rejected

LIMITS = Limits(max_bytes=20 << 20, max_pixels=40_000_000, copy_side=768)
CANARY = files.CANARY
FORMS = (CANARY, CANARY.decode().encode("utf-16-le"), CANARY.decode().encode("utf-16-be"), CANARY[::-1])
FACE = (255, 0, 255)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><dc:creator>" + CANARY + b"</dc:creator></x:xmpmeta>"


@pytest.fixture(scope="module")
def one() -> Iterator[Decoder]:
    made = Decoder(LIMITS, seconds=60)
    yield made
    made.close()


def _thumbnail() -> bytes:
    return files.encoded(Image.new("RGB", (160, 120), FACE), comment=CANARY)


def _exif() -> bytes:
    """Return a TIFF block with texts, a place, a note of the maker, and a thumbnail in its second directory."""
    exif = Image.Exif()
    for tag in (ExifTags.Base.Artist, ExifTags.Base.Copyright, ExifTags.Base.ImageDescription, ExifTags.Base.Make):
        exif[tag] = CANARY.decode()
    exif[ExifTags.Base.XPAuthor] = FORMS[1]
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.MakerNote] = CANARY
    details[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + CANARY
    details[ExifTags.Base.BodySerialNumber] = CANARY.decode()
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    place[ExifTags.GPS.GPSLatitudeRef] = "N"
    place[ExifTags.GPS.GPSLatitude] = (57.0, 8.0, 58.92)
    place[ExifTags.GPS.GPSAreaInformation] = CANARY
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    return block + _thumbnail()


def _jpeg() -> bytes:
    profile = b"ICC_PROFILE\0\x01\x01" + CANARY * 30
    photoshop = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x20\x1c\x02\x50\0" + CANARY
    segments = [
        (0xE0, b"JFXX\0\x13\x10\x10" + bytes(FACE) * 256),
        (0xE0, b"AVI1" + CANARY),
        (0xE1, b"Exif\0\0" + _exif()),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
        (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + CANARY * 50),
        (0xE2, profile),
        (0xE2, b"MPF\0" + CANARY),
        (0xE3, b"Meta\0\0" + CANARY),
        (0xEB, b"JP\0\0" + CANARY),
        (0xEC, b"Ducky" + CANARY),
        (0xED, photoshop),
        (0xFE, CANARY),
    ]
    whole = files.with_segments(files.encoded(files.photo()), *segments)
    return whole[:-2] + b"\xff\xfe" + (len(CANARY) + 2).to_bytes(2, "big") + CANARY + whole[-2:] + _thumbnail() + CANARY


def _png() -> bytes:
    chunks = [
        (b"tEXt", b"Author\0" + CANARY),
        (b"zTXt", b"Comment\0\0" + zlib.compress(CANARY)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        (b"eXIf", _exif()),
        (b"iCCP", b"x\0\0" + zlib.compress(CANARY)),
        (b"tIME", b"\x07\xe9\x01\x01\0\0\0"),
        (b"prVt", CANARY),
    ]
    return files.with_chunks(files.encoded(files.photo(), "PNG"), *chunks) + CANARY


def _webp() -> bytes:
    photo = files.webp_chunks(files.encoded(files.photo(), "WEBP"))
    canvas = bytes([0x2C, 0, 0, 0]) + (799).to_bytes(3, "little") + (599).to_bytes(3, "little")
    around = [(b"EXIF", _exif()), (b"XMP ", XMP), (b"priv", CANARY)]
    return files.riff((b"VP8X", canvas), (b"ICCP", CANARY * 9), *photo, *around) + CANARY


def _heic(*, plain: bool = False) -> bytes:
    picture = heif.piece("photo")
    if plain:
        return heif.heic({1: picture})
    picture.properties += [heif.box(b"colr", b"prof", CANARY * 9), heif.full(b"udes", CANARY, b"\0" * 4)]
    about = {
        2: heif.Item(b"Exif", b"\0\0\0\0" + _exif(), [], {b"cdsc": [1]}),
        3: heif.Item(b"mime", XMP, [], {b"cdsc": [1]}),
        4: heif.Item(b"hvc1", CANARY, [], {b"thmb": [1]}),
    }
    return heif.heic({1: picture, **about}, more=heif.box(b"uuid", bytes(16), CANARY) + heif.box(b"free", CANARY))


def _plain(kind: str) -> bytes:
    return _heic(plain=True) if kind == "HEIC" else files.encoded(files.photo(), kind)


CARRIERS = {"JPEG": _jpeg(), "PNG": _png(), "WEBP": _webp(), "HEIC": _heic()}


def _segments(jpeg: bytes) -> list[int]:
    """Return the markers of a JPEG up to its end, and make sure that nothing is behind that."""
    found, pos = [], 2
    assert jpeg[:2] == b"\xff\xd8"
    while True:
        at = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]").search(jpeg, pos)
        assert at
        found.append(jpeg[at.end() - 1])
        if found[-1] == 0xD9:
            assert at.end() == len(jpeg)
            return found
        pos = at.end() + int.from_bytes(jpeg[at.end() : at.end() + 2], "big")


@pytest.mark.parametrize("kind", CARRIERS)
def test_the_working_copy_has_none_of_what_the_file_says_beside_its_pixels(kind: str, one: Decoder) -> None:
    data = CARRIERS[kind]
    assert data.count(CANARY) > 5
    answer = one.decode(data)
    assert isinstance(answer, Decoded)
    for form in (*FORMS, b"Exif", b"http", b"ICC", b"GPS", b"JFXX", b"MPF", b"Adobe", b"8BIM", XMP[:12]):
        assert form not in answer.copy
        assert form not in answer.pixels.tobytes()
    assert set(_segments(answer.copy)) <= {0xE0, 0xDB, 0xC0, 0xC4, 0xDA, 0xD9}
    at = answer.copy.index(b"JFIF\0")
    assert answer.copy[at - 4 : at] == b"\xff\xe0\0\x10", "the JFIF segment holds its fixed fields and no thumbnail"


@pytest.mark.parametrize("kind", CARRIERS)
def test_the_working_copy_is_the_one_of_the_same_photo_without_any_of_it(kind: str, one: Decoder) -> None:
    answer = one.decode(CARRIERS[kind])
    assert isinstance(answer, Decoded)
    plain = one.decode(_plain(kind))
    assert isinstance(plain, Decoded)
    assert answer.copy == plain.copy


@pytest.mark.parametrize("kind", CARRIERS)
def test_no_reason_quotes_the_file(kind: str, one: Decoder) -> None:
    data = CARRIERS[kind]
    for share in (0.001, 0.01, 0.1, 0.3, 0.6, 0.9):
        cut = int(len(data) * share)
        for broken in (data[:cut], data[:cut] + CANARY * 10 + data[cut:], data[: cut // 2] + data[cut:]):
            answer = one.decode(broken)
            if isinstance(answer, Rejected):
                assert not any(form.decode("latin-1") in answer.detail for form in FORMS)
            else:
                assert isinstance(answer, Decoded)
                assert not any(form in answer.copy for form in FORMS)
