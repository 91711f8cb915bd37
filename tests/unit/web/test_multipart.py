"""Multipart bodies come out the same however they are cut into pieces."""

import io
import time
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.storage.file import FileStorage
from web.intake import body as body_module
from web.intake.body import Body
from web.intake.multipart import MultipartReader
from web.intake.reception import Reception
from web.places import Place

JOB = UUID(int=1)
BOUNDARY = "b0undary"


def encoded(photos: list[bytes], options: bytes | None) -> bytes:
    parts = [
        b'--b0undary \r\nContent-Disposition: form-data; name="photos"; filename="%d.jpg"\r\n\r\n%s\r\n' % (n, photo)
        for n, photo in enumerate(photos)
    ]
    if options is not None:
        parts.insert(1, b'--b0undary\r\nContent-Disposition: form-data; name="job"\r\n\r\n%s\r\n' % options)
    return b"preamble\r\n" + b"".join(parts) + b"--b0undary--\r\nepilogue"


# Bytes that look like the envelope are the hard ones.
PIECES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"--b0und", b"--b0undar", b"x", b"\x00"]), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(photos=st.lists(PIECES.map(b"".join), min_size=1, max_size=4), piece=st.integers(1, 40))
def test_photos_survive_any_cut(
    photos: list[bytes], piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "PIECE", piece)
    data = encoded(photos, b'{"priority": "bulk"}')
    storage = FileStorage(tmp_path)
    reception = Reception(storage, JOB, max_photos=10, max_photo_bytes=10_000, keep=True)
    body = Body(
        {"wsgi.input": io.BytesIO(data), "CONTENT_LENGTH": str(len(data))},
        1_000_000,
        Place(UUID(int=0), time.monotonic),
    )
    assert MultipartReader(reception).read(body, BOUNDARY) == b'{"priority": "bulk"}'
    assert [storage.read(photo.storage_key, limit=10_000) for photo in reception.photos] == photos
    assert [photo.name for photo in reception.photos] == [f"{n}.jpg" for n in range(len(photos))]
    reception.discard()
    assert list(storage.list("")) == []
