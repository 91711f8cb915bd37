import hashlib
import time
from io import BytesIO
from pathlib import Path
from uuid import UUID

import pytest
from werkzeug.http import parse_options_header

from cli.multipart import PhotoChanged, PhotoForm
from cli.photos import Photo, find_photos
from shared.database import new_id
from shared.storage.file import FileStorage
from web.intake.body import Body
from web.intake.multipart import MultipartReader
from web.intake.reception import Reception
from web.places import Place


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    (tmp_path / "photos").mkdir()
    tmp_path = tmp_path / "photos"
    (tmp_path / "one.jpg").write_bytes(b"\xff\xd8 one")
    (tmp_path / "two.jpg").write_bytes(bytes(700_000))
    (tmp_path / "zero.jpg").touch()
    (tmp_path / 'Wunde "links" \N{GREEK SMALL LETTER ALPHA}.jpg').write_bytes(b"four")
    return find_photos([str(tmp_path)])


def test_the_service_receives_every_photo_byte_for_byte_under_its_name(photos: list[Photo], tmp_path: Path) -> None:
    form = PhotoForm({"priority": "bulk"}, photos)
    body = b"".join(form)
    assert len(body) == int(form.headers["Content-Length"])
    environ = {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": form.headers["Content-Length"]}
    storage = FileStorage(tmp_path / "storage")
    reception = Reception(storage, new_id(), max_photos=10, max_photo_bytes=1_000_000, keep=True)
    _, options = parse_options_header(form.headers["Content-Type"])
    job = MultipartReader(reception).read(
        Body(environ, len(body), Place(UUID(int=0), time.monotonic)), options["boundary"]
    )
    assert job == b'{"priority": "bulk"}'
    assert [photo.name for photo in reception.photos] == [photo.name for photo in photos]
    assert [photo.sha256.hex() for photo in reception.photos] == form.digests


def test_every_pass_sends_the_same_and_ends_with_the_hashes(photos: list[Photo]) -> None:
    form = PhotoForm({}, photos)
    assert b"".join(form) == b"".join(form)
    assert form.digests == [hashlib.sha256(photo.path.read_bytes()).hexdigest() for photo in photos]


def test_progress_counts_the_bytes_of_photos_and_begins_anew_with_each_pass(photos: list[Photo]) -> None:
    told: list[int] = []
    form = PhotoForm({}, photos, told.append)
    for _ in range(2):
        told.clear()
        b"".join(form)
        assert told[0] == 0
        assert told == sorted(told)
        assert told[-1] == sum(photo.size for photo in photos)


@pytest.mark.parametrize("content", [b"shorter", bytes(700_001)])
def test_a_photo_that_changed_meanwhile_is_told_and_not_sent(photos: list[Photo], content: bytes) -> None:
    form = PhotoForm({}, photos)
    photos[2].path.write_bytes(content)
    with pytest.raises(PhotoChanged, match=r"two\.jpg changed"):
        b"".join(form)


def test_a_photo_that_is_gone_is_told(photos: list[Photo]) -> None:
    form = PhotoForm({}, photos)
    photos[1].path.unlink()
    with pytest.raises(PhotoChanged, match=r"one\.jpg cannot be read"):
        b"".join(form)
