"""HEIC photos: colours, rotation, depth, grids, and what a child refuses before libheif sees it."""

import struct

import numpy as np
import pytest

from tests.unit.worker import heif_files as heif
from tests.unit.worker import photo_files as files
from tests.unit.worker.heif_files import Item
from worker.decoding.heif import heif_size, is_heif
from worker.decoding.outcomes import Limits, Unusable
from worker.decoding.picture import Picture, decode_picture

LIMITS = Limits(max_bytes=50 << 20, max_pixels=40_000_000, copy_side=768)
QUARTERS = [files.RED, files.GREEN, files.BLUE, files.WHITE]


def _decoded(data: bytes) -> Picture:
    return decode_picture(data, LIMITS)


def _reason(data: bytes) -> str:
    with pytest.raises(Unusable) as refused:
        _decoded(data)
    return refused.value.reason


def _quarters(picture: Picture) -> list[tuple[int, ...]]:
    """The colours in the middles of the four quarters, by rows."""
    image = np.asarray(picture.image)
    height, width = image.shape[:2]
    return [tuple(map(int, image[height * y // 4, width * x // 4])) for y in (1, 3) for x in (1, 3)]


def _are_like(found: list[tuple[int, ...]], expected: list[tuple[int, int, int]], off: int = 8) -> bool:
    return all(
        abs(a - b) <= off for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("name", ["corners", "deep", "two"])
def test_the_primary_picture_has_its_colours_in_8_bits_and_in_10(name: str) -> None:
    picture = _decoded(heif.stored(name))
    assert (picture.width, picture.height, picture.format) == (640, 480, "HEIC")
    assert picture.image.mode == "RGB"
    assert _are_like(_quarters(picture), QUARTERS)


@pytest.mark.parametrize("name", ["grey", "deep_grey"])
def test_a_grey_picture_is_as_bright_in_8_bits_and_in_10(name: str) -> None:
    red_or_luma = (
        [220, 30, 30, 240]
        if name == "deep_grey"
        else [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in QUARTERS]
    )
    assert _are_like(_quarters(_decoded(heif.stored(name))), [(one, one, one) for one in red_or_luma])


def test_what_is_transparent_is_white_as_in_the_other_kinds() -> None:
    picture = _decoded(heif.stored("alpha"))
    assert picture.image.mode == "RGB"
    assert _are_like(_quarters(picture), [(255, 255, 255), *QUARTERS[1:]])


@pytest.mark.parametrize(
    ("turned", "size", "order"),
    [
        ((), (640, 480), (0, 1, 2, 3)),
        ((heif.irot(1),), (480, 640), (1, 3, 0, 2)),
        ((heif.irot(2),), (640, 480), (3, 2, 1, 0)),
        ((heif.irot(3),), (480, 640), (2, 0, 3, 1)),
        ((heif.imir(0),), (640, 480), (2, 3, 0, 1)),
        ((heif.imir(1),), (640, 480), (1, 0, 3, 2)),
        ((heif.irot(1), heif.imir(1)), (480, 640), (3, 1, 2, 0)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_is_turned_once_by_its_properties_whatever_its_exif_block_repeats(
    turned: tuple[bytes, ...], size: tuple[int, int], order: tuple[int, ...], orientation: int
) -> None:
    exif = b"\0\0\0\0" + b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    picture = heif.piece("corners")
    picture.properties += turned
    found = _decoded(heif.heic({1: picture, 2: Item(b"Exif", exif, [], {b"cdsc": [1]})}))
    assert (found.width, found.height) == size
    assert _are_like(_quarters(found), [QUARTERS[n] for n in order])


def test_a_grid_as_phones_write_it_is_one_picture() -> None:
    picture = _decoded(heif.tiled(6, 8, turned=(heif.irot(3),)))
    assert (picture.width, picture.height) == (3072, 4096)
    whole, part = np.asarray(picture.image, np.float64), np.asarray(_decoded(heif.stored("tile")).image, np.float64)
    assert abs(whole.mean(axis=(0, 1)) - part.mean(axis=(0, 1))).max() < 2


def test_a_picture_of_the_most_pixels_is_taken_and_of_more_is_not() -> None:
    assert heif_size(heif.tiled(12, 12), LIMITS.max_pixels) == (6144, 6144)
    assert _reason(heif.tiled(12, 16)) == "too_many_pixels"


@pytest.mark.parametrize(
    ("brands", "is_one"),
    [
        (b"heic\0\0\0\0mif1heic", True),
        (b"mif1\0\0\0\0heix", True),
        (b"avif\0\0\0\0mif1miaf", False),
        (b"mif1\0\0\0\0avif", False),
        (b"isom\0\0\0\0mp42", False),
    ],
)
def test_a_heic_is_known_by_its_brands(brands: bytes, is_one: bool) -> None:
    assert is_heif(heif.box(b"ftyp", brands)) is is_one


@pytest.mark.parametrize("brand", [b"msf1", b"hevc", b"hevx"])
def test_a_sequence_is_no_photo(brand: bytes) -> None:
    assert _reason(heif.heic({1: heif.piece("corners")}, brands=brand + b"\0\0\0\0heic")) == "unsupported_frames"


def test_a_film_beside_the_picture_makes_it_no_photo() -> None:
    assert _reason(heif.heic({1: heif.piece("corners")}, more=heif.box(b"moov"))) == "unsupported_frames"


@pytest.mark.parametrize("kind", [b"av01", b"jpeg", b"j2k1", b"iden", b"iovl", b"unci"])
def test_another_kind_of_picture_in_the_same_boxes_is_not_taken(kind: bytes) -> None:
    picture = heif.piece("corners")
    picture.kind = kind
    assert _reason(heif.heic({1: picture})) == "unknown_type"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("data", [heif.stored("photo"), heif.tiled(2, 2)], ids=["whole", "grid"])
def test_a_cut_heic_is_damaged(data: bytes, share: float) -> None:
    assert _reason(data[: int(len(data) * share)]) == "damaged"


@pytest.mark.parametrize("count", [4, 40, 512])
@pytest.mark.parametrize("share", [0.15, 0.4, 0.7])
def test_a_heic_whose_bytes_were_lost_to_zeros_is_damaged(count: int, share: float) -> None:
    assert _reason(files.zeroed(heif.stored("photo"), share, count)) == "damaged"


def test_a_heic_that_has_lost_bytes_is_damaged() -> None:
    data = heif.stored("photo")
    assert _reason(data[:4000] + data[4512:]) == "damaged"
    assert _reason(data[:4000] + data[4512:] + bytes(512)) == "damaged"
