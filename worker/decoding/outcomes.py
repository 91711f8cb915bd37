"""What can become of a photo on its way to the network, and the reasons why one is rejected or cannot be read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import PoxVisioError
from worker.inference.preprocess import Quality

REASONS = {
    "empty": "The file has no bytes.",
    "too_large": "The file has more bytes than a photo may have.",
    "too_many_pixels": "The picture has more pixels, or a longer side, than a photo may have.",
    "unknown_type": "The file is no JPEG, PNG, WebP or HEIC picture.",
    "damaged": "The picture is cut off or damaged; part of it would have to be made up.",
    "unsupported_frames": "The file is an animation, not a photo.",
    "metadata_too_large": "The file carries more metadata than any camera writes.",
    "decoder_died": "The decoder crashed, or ran out of the memory a photo may take, each time it read this file.",
    "timed_out": "The decoder needed more of the processor for this file than a photo may take.",
}
UNREADABLE = {
    "photo_missing": "The photo storage has no such object.",
    "storage_unreachable": "The photo storage is out of reach.",
    "bytes_changed": "The photo storage returned other bytes than it was given.",
    "decoder_unavailable": "No decoder got to the end of this file: this machine is overloaded or short of memory.",
}

_HALF_A_GIGABYTE = 512 << 20
_BESIDE = 64 << 20


class Unusable(PoxVisioError):
    """The file is no usable photo; asking again changes nothing."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """``reason`` is a key of ``REASONS``; ``detail`` a sentence, by default the reason's own."""
        super().__init__(detail or REASONS[reason])
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoding child is told at its start: bytes, pixels, and the longer side of a working copy."""

    max_bytes: int
    max_pixels: int
    copy_side: int

    @property
    def memory(self) -> int:
        """How many bytes a child may take over one file: half a gigabyte, which 40 megapixels of JPEG or PNG need."""
        return max(_HALF_A_GIGABYTE, 13 * self.max_pixels)

    def max_webp_pixels(self, size: int) -> int:
        """How many pixels a WebP of ``size`` bytes may have to fit into ``memory``.

        Pillow's reader of WebP holds four whole pictures of four bytes a pixel at a time, and the file twice.
        """
        return min(self.max_pixels, max(0, self.memory - _BESIDE - 2 * size) // 16)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A good photo. ``width`` and ``height`` are those of the original, upright."""

    pixels: NDArray[np.uint8]
    """RGB [224, 224, 3], read-only."""
    copy: bytes
    """The working copy: a JPEG without any metadata."""
    quality: Quality
    width: int
    height: int
    format: str
    """``JPEG``, ``MPO`` (a JPEG with more pictures behind the first), ``PNG``, ``WEBP`` or ``HEIC``."""
    seconds: float
    """How long the child worked on it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is no usable photo. ``reason`` is a key of ``REASONS``; ``detail`` is a sentence, never a name."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A photo that could not be looked at: the storage or this machine failed, not the photo. Try again later.

    ``reason`` is a key of ``UNREADABLE``; ``detail`` is a sentence, never a name. With ``photo_missing`` the storage
    answered, so that trying again helps little.
    """

    reason: str
    detail: str


Outcome = Decoded | Rejected | Unreadable
