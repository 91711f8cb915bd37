"""The decoding child: a program that finds files in shared memory and lays pictures there, one at a time.

Started as ``python -m worker.decoding.child LIMITS PARENT INBOX OUTBOX`` by ``worker.decoding.decoder``; it must stay
light, and imports neither an engine nor the database, the broker or the storage.
"""

import base64
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO, TypeVar

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from worker.decoding.confinement import confine
from worker.decoding.frames import read_request, write_frame
from worker.decoding.inbox import open_inbox
from worker.decoding.outbox import ChildsOutbox
from worker.decoding.outcomes import REASONS, Limits, Unusable
from worker.decoding.picture import Picture, decode_picture, working_copy
from worker.inference.preprocess import Quality, measure_quality, network_input

_KINDS = (("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("WEBP", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"))
# Two colours, 64 x 32: the one kind that no codec here can write.
_HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXttZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAA"
    "AERAAAEAAQAAAAABnwABAAAAAAAAACQAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA+2lwcnAAAADb"
    "aXBjbwAAAHZodmNDAQNwAAAAAAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAA"
    "AwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xh"
    "cAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AAAAACAAAADnBpeGkAAAAAAQgAAAAYaXBtYQAAAAAAAAABAAEFgQIDBYQAAAAsbWRhdAAAACAo"
    "Aa8ZgO9Jpb//xGV/0B6/3SyF//SDnfFKx/vscNtbwA=="
)
_SMALL = Limits(max_bytes=1 << 20, max_pixels=1 << 20, copy_side=512)

First = TypeVar("First")
Second = TypeVar("Second")


def main(arguments: list[str]) -> None:
    """Serve until the pipe of requests ends."""
    limits = Limits(**json.loads(arguments[0]))
    requests, answers = _take_pipes()
    inbox = open_inbox(int(arguments[2]), limits.max_bytes)
    outbox = ChildsOutbox.open(int(arguments[3]))
    aside = ThreadPoolExecutor(1)
    _try_codecs(aside)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)  # both may be sent to the whole group; the worker still wants its photos
    _silence(2)  # nothing a file brings about may reach the logs
    confinement = confine(memory=limits.memory, parent=int(arguments[1]))
    # Once more: a filter that a codec of this machine cannot live with must not pass for damaged photos.
    _try_codecs(aside)
    write_frame(answers, {"ready": True, "confinement": confinement})
    files = memoryview(inbox)
    while (request := read_request(requests)) is not None:
        size, is_alone = request
        head, parts = answer(files[:size], limits, aside if is_alone else None)
        write_frame(answers, head, outbox.put(parts))


def answer(
    data: bytes | memoryview, limits: Limits, aside: ThreadPoolExecutor | None = None
) -> tuple[dict[str, Any], tuple[bytes | memoryview, ...]]:
    """What becomes of one file: a head, and for a good photo its pixels and its working copy.

    Half of what follows the decode is done ``aside``, where there is such a thread.
    """
    started = time.monotonic()
    try:
        picture = decode_picture(data, limits)
        pixels, (quality, copy) = _both(
            aside, partial(network_input, picture.image), partial(_kept, picture, limits.copy_side)
        )
    except Unusable as error:
        return {"reason": error.reason, "detail": str(error)}, ()
    except MemoryError:
        return {"reason": "decoder_died", "detail": REASONS["decoder_died"]}, ()
    except Exception:  # noqa: BLE001 -- codecs raise anything for a broken file, and what they say may quote it
        return {"reason": "damaged", "detail": REASONS["damaged"]}, ()
    head = {
        "format": picture.format,
        "width": picture.width,
        "height": picture.height,
        "quality": quality.as_dict(),
        "seconds": time.monotonic() - started,
    }
    return head, (np.ascontiguousarray(pixels).data.cast("B"), copy)


def _kept(picture: Picture, side: int) -> tuple[Quality, bytes]:
    """What is stored beside the answer; takes about as long as the network's input."""
    quality = measure_quality(picture.image, shorter_side=min(picture.width, picture.height))
    return quality, working_copy(picture, side)


def _both(
    aside: ThreadPoolExecutor | None, first: Callable[[], First], second: Callable[[], Second]
) -> tuple[First, Second]:
    """What the two return, the second from another thread; both are over then, whatever they raise."""
    if aside is None:
        return first(), second()
    beside = aside.submit(second)
    try:
        found = first()
    finally:
        wait([beside])
    return found, beside.result()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the two pipes for frames alone."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _silence(0, 1)
    return requests, answers


def _silence(*standard: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in standard:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _try_codecs(aside: ThreadPoolExecutor | None = None) -> None:
    """Use every codec, and the reader of Exif, once: they load lazily, and no file can be opened later.

    And the thread, which is there then.
    """
    small = Image.new("RGBA", (16, 8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    files = [simplejpeg.encode_jpeg(np.zeros((8, 16, 3), np.uint8))]
    for kind, mode in _KINDS:
        file = BytesIO()
        (Image.new(mode, small.size) if mode == "I;16" else small.convert(mode)).save(file, kind, exif=exif)
        files.append(file.getvalue())
    files.append(_HEIC)
    sizes = [(head.get("width"), head.get("height")) for head, _ in (answer(data, _SMALL, aside) for data in files)]
    if sizes != [(16, 8)] + [(8, 16)] * len(_KINDS) + [(64, 32)]:
        raise RuntimeError("a codec does not work on this machine")


if __name__ == "__main__":
    main(sys.argv[1:])
