"""From the bytes of a file to an upright RGB picture: strictly, so that a damaged photo is never answered for.

A JPEG is decoded once, at the smallest scale that still holds twice the network's input and the working copy; the
other kinds are decoded whole and reduced to about that scale, so that a photo gets the same answer as JPEG and as PNG.

What no reader can see: JPEG and WebP carry no sums, so a few altered bits may still make a picture, only another one.
What is cut off, missing or zeroed in a JPEG is seen, and in a PNG everything.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pi_heif
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image

from worker.decoding.headers import Header, check_size, is_jpeg, read_header
from worker.decoding.holes import has_hole
from worker.decoding.outcomes import Limits, Unusable
from worker.inference.preprocess import SIDE

# Finer pixels stand a coarser code: at 1008 pixels 75 is nearer to the photo than 85 at 768, and costs a third less.
_COPY_QUALITY, _LARGE_COPY_QUALITY, _LARGE_COPY = 85, 75, 800
# A working copy between this and the limit is made of the decode as it is: resizing it costs more than decoding 1 MP.
_COPY_LEAST = 512
_Pixels = NDArray[np.uint8]
_CMYK = 4
_STRIP_PIXELS = 1 << 20
# No threads, and nothing but the picture: what the file holds besides is not even looked at.
pi_heif.options.DECODE_THREADS = 0
pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False
_SIDEWAYS = 5  # Exif orientations from here on swap width and height
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An upright RGB picture, scaled down where that loses nothing; ``width`` and ``height`` before that scaling."""

    image: Image.Image
    width: int
    height: int
    format: str
    decoded: NDArray[np.uint8] | None = None
    """RGB and a byte of nothing [height, width, 4]: the very pixels of ``image``, where it was decoded so."""


def decode_picture(data: bytes | memoryview, limits: Limits) -> Picture:
    """Decode a photo.

    1. Refuse by size, then by what ``read_header`` sees.
    2. Decode strictly: any sign of damage refuses the whole photo.
    3. Lay transparency over white, bring 16 bits down to 8.
    4. Turn it upright as its Exif block says; a HEIC as its own properties say (ISO/IEC 23008-12, 6.5.10 and 6.5.12),
       which its Exif block only repeats.

    Raises ``Unusable``; a codec may raise anything else for a file it cannot read.
    """
    if len(data) > limits.max_bytes:
        raise Unusable("too_large", f"The file has {len(data)} bytes; {limits.max_bytes} are the limit.")
    if not is_jpeg(data):
        data = bytes(data)  # a JPEG, which is what comes most, is read where it lies
    header = read_header(data, max_pixels=limits.max_pixels)
    if header.format == "WEBP":
        check_size(header.width, header.height, limits.max_webp_pixels(len(data)), "a WebP of so many bytes")
    if header.format == "HEIC":
        image, (width, height) = _decode_heic(bytes(data), header, limits)
        return Picture(image, width, height, header.format)
    pixels = None
    if header.format in ("JPEG", "MPO"):
        image, pixels = _decode_jpeg(data, header, limits.copy_side)
    else:
        image = _decode_whole(header.slim or bytes(data), header, limits)
    turn = _orientation(header.exif)
    width, height = (header.height, header.width) if turn >= _SIDEWAYS else (header.width, header.height)
    if turn == 1:
        return Picture(image, width, height, header.format, pixels)
    return Picture(image.transpose(_UPRIGHT[turn]), width, height, header.format)


def working_copy(picture: Picture, side: int) -> bytes:
    """The picture as a JPEG of pixels alone, its longer side at most ``side``."""
    image, pixels = picture.image, picture.decoded
    longer = max(image.size)
    if longer > side:
        size = (max(1, round(image.width * side / longer)), max(1, round(image.height * side / longer)))
        image, pixels = image.resize(size, Image.Resampling.HAMMING), None
    colours = "RGBX"
    if pixels is None:
        colours, pixels = "RGB", np.ascontiguousarray(image)
    quality = _LARGE_COPY_QUALITY if max(image.size) > _LARGE_COPY else _COPY_QUALITY
    copy: bytes = simplejpeg.encode_jpeg(pixels, quality, colorspace=colours, colorsubsampling="420")
    return copy


def _needed(width: int, height: int, copy_side: int) -> tuple[int, int]:
    """The least width and height a scaled decode must keep."""
    longer = max(2 * SIDE, copy_side)
    return (longer, 2 * SIDE) if width >= height else (2 * SIDE, longer)


def _decode_jpeg(data: bytes | memoryview, header: Header, copy_side: int) -> tuple[Image.Image, _Pixels | None]:
    min_width, min_height = _needed(header.width, header.height, min(copy_side, _COPY_LEAST))
    ink = header.components == _CMYK
    if has_hole(data):
        raise Unusable("damaged", "Part of the JPEG is zeros.")
    try:
        # Pillow would fill what is missing with grey; libjpeg's every warning is an error here.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "CMYK" if ink else "RGBX", min_height=min_height, min_width=min_width, strict=True
        )
    except ValueError as error:
        raise Unusable("damaged") from error
    size = (pixels.shape[1], pixels.shape[0])
    if not ink:
        # Pillow keeps a picture in four bytes a pixel too: taking them as they are is half of filling them in.
        return Image.frombytes("RGB", size, pixels, "raw", "RGBX", 0, 1), pixels
    # Whoever writes ink into a JPEG follows Adobe and writes it inverted.
    return Image.frombuffer("CMYK", size, pixels, "raw", "CMYK;I", 0, 1).convert("RGB"), None


def _decode_whole(data: bytes, header: Header, limits: Limits) -> Image.Image:
    with Image.open(BytesIO(data), formats=[header.format]) as opened:
        check_size(opened.width, opened.height, limits.max_pixels)
        if opened.size != (header.width, header.height):
            raise Unusable("damaged", "The picture has another size than its header says.")
        if getattr(opened, "n_frames", 1) != 1:
            raise Unusable("unsupported_frames")
        opened.load()
        return _reduced(opened, limits)


def _decode_heic(data: bytes, header: Header, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """The primary picture, turned and cut as its properties say, and its size before it was reduced."""
    file = pi_heif.open_heif(data, convert_hdr_to_8bit=True)
    found = file[file.primary_index]
    pixels = found.data
    width, height = found.size
    if width * height > header.width * header.height:
        raise Unusable("damaged", "The picture has another size than its header says.")
    mode = found.mode.replace("I;16L", "I;16")
    image = Image.frombuffer(mode, found.size, pixels, "raw", mode, found.stride, 1)
    return _reduced(image, limits), (width, height)


def _reduced(image: Image.Image, limits: Limits) -> Image.Image:
    """The picture as RGB at about the scale of a JPEG; made strip by strip, so that no second whole one is needed."""
    width, height = image.size
    min_width, min_height = _needed(width, height, limits.copy_side)
    factor = max(1, min(width // min_width, height // min_height))
    if factor == 1:
        return _rgb(image)
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = factor * max(1, _STRIP_PIXELS // (width * factor))
    for top in range(0, height, rows):
        strip = _rgb(image.crop((0, top, width, min(top + rows, height))))
        small.paste(strip.reduce(factor), (0, top // factor))
    return small


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits to white instead of scaling them.
        deep = np.asarray(image).astype(np.uint32)
        grey = ((deep + 128) // 257).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[deep == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(colour, mask=colour.getchannel("A"))
        return white
    return image.convert("RGB")


def _orientation(exif: bytes) -> int:
    """The Exif orientation, 1 to 8 (Exif 2.32, 4.6.4); 1 where the block says nothing that can be read."""
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(b"Exif\0\0" + exif)
        turn = tags.get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 -- broken metadata raises anything, and harms no photo
        return 1
    return turn if turn in _UPRIGHT else 1
