"""Base64 is lifted out of a JSON list as it streams by, however it is cut and written; the rest stays as it was."""

import base64
import contextlib
import io
import json
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.database import new_id
from shared.storage.file import FileStorage
from web.intake import body as bodies
from web.intake.body import Body
from web.intake.lifting import ListReader
from web.intake.reception import Reception
from web.places import Place
from web.problems import Problem

PLACE = Place(UUID(int=0), time.monotonic)


class Kept:
    """Takes photos as a reception does, and keeps them."""

    def __init__(self) -> None:
        self.photos: dict[int, bytes] = {}
        self._open = 0

    def begin(self, _: str | None, *, ordinal: int) -> None:
        self._open = ordinal
        self.photos[ordinal] = b""

    def write(self, data: bytes) -> None:
        self.photos[self._open] += data

    def finish(self) -> None:
        """Nothing is left to do."""


def lift(document: bytes, piece: int = 7) -> tuple[Any, dict[int, bytes]]:
    kept = Kept()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(piece, size or 0) if size and size > 0 else piece)

    environ = {"wsgi.input": Slow(document), "CONTENT_LENGTH": str(len(document))}
    rest = ListReader(kept).read(Body(environ, 1 << 30, PLACE))  # type: ignore[arg-type]  # it has what is needed
    return json.loads(rest), kept.photos


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


@given(
    photos=st.lists(st.one_of(st.binary(max_size=200), TEXTS), max_size=6),
    piece=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
    is_ascii=st.booleans(),
    extra=TEXTS,
)
def test_photos_come_out_as_they_were_and_the_rest_too(
    photos: list[bytes | str], piece: int, indent: int | None, is_ascii: bool, extra: str
) -> None:
    images = [{"content": encoded(p), "file_name": extra} if isinstance(p, bytes) else {"url": p} for p in photos]
    other = {"content": extra, "images": [{"content": "a"}], "nested": [[{"content": extra}], {"content": [extra]}]}
    document = {"metadata": other, "images": images, extra + "!": {"content": extra}}
    rest, kept = lift(json.dumps(document, indent=indent, ensure_ascii=is_ascii).encode(), piece)
    emptied = [image | {"content": ""} if "content" in image else image for image in images]
    assert rest == document | {"images": emptied}
    assert kept == {place: p for place, p in enumerate(photos) if isinstance(p, bytes)}


@pytest.mark.parametrize("piece", range(1, 12))
@pytest.mark.parametrize(("plain", "escaped"), [("/", "\\/"), ("+", "\\u002B"), ("=", "\\u003d")])
def test_escapes_that_other_encoders_write_are_understood(piece: int, plain: str, escaped: str) -> None:
    data = b"\xff\xd8\xff\xfb\xf0\x00\x3f\xfe"
    document = f'{{"images": [{{"c\\u006fntent": "{encoded(data).replace(plain, escaped)}"}}]}}'
    assert lift(document.encode(), piece) == ({"images": [{"content": ""}]}, {0: data})


@pytest.mark.parametrize("piece", [1, 3, 1000])
@pytest.mark.parametrize("content", ["!!!!", "AAA", "AA==AAAA", "AAAA\\n", "A A=", "\\", "\\ud800", "AAAA\\u00e9AAA"])
def test_what_is_no_base64_is_refused_by_its_place(content: str, piece: int) -> None:
    document = f'{{"images": [{{"content": "AAAA"}}, {{"content": "{content}"}}]}}'
    with pytest.raises(Problem) as raised:
        lift(document.encode(), piece)
    assert raised.value.kind.status in (400, 422)
    if raised.value.kind.status == 422:
        assert raised.value.errors[0]["pointer"] == "#/images/1/content"


def test_two_contents_of_one_photo_are_refused() -> None:
    with pytest.raises(Problem) as raised:
        lift(b'{"images": [{"content": "AAAA", "content": "AAAA"}]}')
    assert raised.value.errors[0]["detail"] == "is given twice"


def test_a_document_of_megabytes_is_never_held_whole(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PIECE", 64 * 1024)
    data = bytes(range(256)) * 12_000
    document = json.dumps({"images": [{"content": encoded(data)}] * 4}).encode()
    storage = FileStorage(tmp_path)
    reception = Reception(storage, new_id(), max_photos=10, max_photo_bytes=1 << 22, keep=True)
    environ = {"wsgi.input": io.BytesIO(document), "CONTENT_LENGTH": str(len(document))}
    rest = ListReader(reception).read(Body(environ, 1 << 30, PLACE))
    reception.settle()
    assert len(rest) < 100
    assert [storage.read(photo.storage_key, limit=1 << 22) for photo in reception.photos] == [data] * 4


@given(st.binary(max_size=200), st.integers(1, 20))
def test_no_bytes_bring_about_anything_but_a_refusal(data: bytes, piece: int) -> None:
    # What is left need be no JSON: its parser says so. Nothing else may come of it.
    with contextlib.suppress(Problem, json.JSONDecodeError, UnicodeDecodeError):
        _, kept = lift(b'{"images": [{"content": "' + data, piece)
        assert len(kept[0]) < len(data)
