"""After a job closes nothing of a photo but its pixels is left in the storage."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shared.database import Database
from shared.settings import Settings
from shared.storage import Storage
from tests.integration.worker.conftest import Submit, Worker, photo
from tests.unit.worker import heif_files
from tests.unit.worker.heif_files import Item
from worker.housekeeping import Housekeeping

CANARY = b"Canary-7f3a91"
TEXT = CANARY.decode()


def picture() -> Image.Image:
    return Image.open(io.BytesIO(photo(11)))


def jpeg_with_everything() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = TEXT  # ImageDescription
    exif[0x9286] = TEXT  # UserComment
    exif.get_ifd(0x8825)[0x001B] = TEXT  # GPSProcessingMethod
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", exif=exif, comment=CANARY, icc_profile=CANARY * 20, xmp=b"<x>" + CANARY + b"</x>")
    return buffer.getvalue() + b"PK\x03\x04 tail " + CANARY


def png_with_text() -> bytes:
    info = PngInfo()
    info.add_text("Comment", TEXT)
    info.add_itxt("XML:com.adobe.xmp", TEXT)
    buffer = io.BytesIO()
    picture().save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def webp_with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = TEXT
    buffer = io.BytesIO()
    picture().save(buffer, "WEBP", exif=exif, xmp=CANARY)
    return buffer.getvalue()


def stored_bytes(settings: Settings) -> dict[str, bytes]:
    folder = Path(settings.storage_url.removeprefix("file://"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def heic_with_a_place() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = TEXT
    exif.get_ifd(0x8825)[0x001C] = CANARY
    about = {
        2: Item(b"Exif", b"\0\0\0\0" + exif.tobytes(), [], {b"cdsc": [1]}),
        3: Item(b"mime", CANARY, [], {b"cdsc": [1]}),
    }
    return heif_files.heic({1: heif_files.piece("photo"), **about})


@pytest.mark.parametrize("make", [jpeg_with_everything, png_with_text, webp_with_exif, heic_with_a_place])
def test_no_canary_survives_the_job(
    make: Callable[[], bytes], settings: Settings, submit_photos: Submit, make_worker: Worker, worker_db: Database,
    storage: Storage,
) -> None:  # fmt: skip
    data = make()
    assert CANARY in data
    submit_photos([data])
    assert any(CANARY in kept for kept in stored_bytes(settings).values()), "the original is there while the job runs"

    make_worker().drain()
    Housekeeping(worker_db, storage).delete_originals()

    left = stored_bytes(settings)
    assert len(left) == 1, "one working copy"
    assert all(CANARY not in kept for kept in left.values())
